# SPDX-License-Identifier: Apache-2.0
"""gRPC adapters: they move bytes between sockets and the core, and decide nothing."""
