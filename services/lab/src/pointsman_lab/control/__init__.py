# SPDX-License-Identifier: Apache-2.0
"""The process inside the lab's namespaces that owns network, pods and processes, and its remote interface."""
