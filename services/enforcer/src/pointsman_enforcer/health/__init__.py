# SPDX-License-Identifier: Apache-2.0
"""What the node says about itself over HTTP, on kube-proxy's ports and in its words."""
