# SPDX-License-Identifier: Apache-2.0
"""From a KubeProxyConfiguration to an EnforcerConfiguration: what is carried over, what changes, what is left out."""
