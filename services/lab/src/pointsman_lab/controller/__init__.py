# SPDX-License-Identifier: Apache-2.0
"""What a cluster's own controllers do: Deployments to pods to EndpointSlices. Decisions are pure; `loop` does the IO."""
