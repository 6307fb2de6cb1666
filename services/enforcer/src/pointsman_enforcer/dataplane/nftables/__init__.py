# SPDX-License-Identifier: Apache-2.0
"""The nftables backend: static chains, dynamic sets and maps, own netlink batches. See DESIGN.md beside this file."""
