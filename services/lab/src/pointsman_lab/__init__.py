# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster on one machine: nodes and pods as network namespaces, an API server, controllers, Pointsman."""
