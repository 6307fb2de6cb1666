# SPDX-License-Identifier: Apache-2.0
"""The pure vocabulary of Pointsman."""
