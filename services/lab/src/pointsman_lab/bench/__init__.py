# SPDX-License-Identifier: Apache-2.0
"""`make bench`: how fast a change gets from the API server into a kernel, and what it costs, on a whole lab."""
