# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster on one machine: network namespaces for nodes and pods, an API server, controllers, and Pointsman itself."""
