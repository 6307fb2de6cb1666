# SPDX-License-Identifier: Apache-2.0
"""What the command shows, made of what planners and clusters answer. Pure: no IO, no clock."""
