# SPDX-License-Identifier: Apache-2.0
"""Where the cluster comes from: the WatchCluster client."""
