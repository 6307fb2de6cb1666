# SPDX-License-Identifier: Apache-2.0
"""The IPVS dataplane: connections are balanced by the kernel's own load balancer."""
