# SPDX-License-Identifier: Apache-2.0
"""From the API server to normalised, revisioned deltas of the cluster. See DESIGN.md beside `src`."""
