# SPDX-License-Identifier: Apache-2.0
"""From the state of the cluster to the plan of each node. See DESIGN.md beside `src`."""
