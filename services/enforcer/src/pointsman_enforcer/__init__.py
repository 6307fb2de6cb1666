# SPDX-License-Identifier: Apache-2.0
"""The enforcer: one per node, turns the node's plan into kernel state and proves what the kernel has."""
