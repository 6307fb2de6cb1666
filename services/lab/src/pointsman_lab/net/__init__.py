# SPDX-License-Identifier: Apache-2.0
"""The lab's network: one namespace per node, pod and client, joined by veth pairs."""
