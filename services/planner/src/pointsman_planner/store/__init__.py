# SPDX-License-Identifier: Apache-2.0
"""What planners share about nodes. Nothing here is on the path of an endpoint change."""
