# SPDX-License-Identifier: Apache-2.0
"""Taking over a node from kube-proxy: what it wrote in any of its modes is recognised and removed, and nothing else."""
