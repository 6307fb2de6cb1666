# SPDX-License-Identifier: Apache-2.0
"""Where plans come from: the stream to a planner."""
