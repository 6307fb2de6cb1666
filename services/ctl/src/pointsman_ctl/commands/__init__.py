# SPDX-License-Identifier: Apache-2.0
"""One module for each command: options, calls, and which of the core's views is shown."""
