# SPDX-License-Identifier: Apache-2.0
"""The kernel's connection table: stale UDP and SCTP flows end, and the sysctls are what the configuration asks for."""
