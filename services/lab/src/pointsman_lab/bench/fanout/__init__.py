# SPDX-License-Identifier: Apache-2.0
"""How planners bear many nodes: simulated enforcers with real streams, a scripted cluster, and its cost."""
