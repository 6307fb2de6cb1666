# SPDX-License-Identifier: Apache-2.0
"""A cluster's own controllers: Deployments to pods to EndpointSlices. Decisions are pure, `loop` does the IO."""
