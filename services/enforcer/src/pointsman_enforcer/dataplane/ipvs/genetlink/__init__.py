# SPDX-License-Identifier: Apache-2.0
"""IPVS's own interface to user space: a family of generic netlink."""
