# SPDX-License-Identifier: Apache-2.0
"""Probes and traffic from inside any namespace of the lab."""
