# SPDX-License-Identifier: Apache-2.0
"""Which mode this node runs: what it can run, what is chosen, and how the dataplane of each is made."""
