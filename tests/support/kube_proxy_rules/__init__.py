# SPDX-License-Identifier: Apache-2.0
"""Rules as kube-proxy 1.36 writes them in each of its modes, for one small cluster, and those of its neighbours."""
