# SPDX-License-Identifier: Apache-2.0
"""Ways to find out where packets go: by the plan alone, and in a real kernel."""
