# SPDX-License-Identifier: Apache-2.0
"""The console: a read-only web page of one planner."""
