# SPDX-License-Identifier: Apache-2.0
"""The tools of xtables and ipset, for every mode that programs the kernel through them."""
