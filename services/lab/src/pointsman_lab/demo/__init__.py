# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a cluster on this machine, put to the test before your eyes."""
