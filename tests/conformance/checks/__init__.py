# SPDX-License-Identifier: Apache-2.0
"""What rows check that are about something else than where packets go: each drives the part of the product itself."""
