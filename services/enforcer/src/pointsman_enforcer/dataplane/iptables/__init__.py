# SPDX-License-Identifier: Apache-2.0
"""The iptables dataplane, for both variants of the tool."""
