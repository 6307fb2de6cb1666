# SPDX-License-Identifier: Apache-2.0
"""The pure part of the planner: cluster state to plans, and the stream protocol as a state machine. No IO."""
