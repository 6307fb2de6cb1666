# SPDX-License-Identifier: Apache-2.0
"""The plan on the node's disk, so that a rebooted node has its Services before it has reached anyone."""
