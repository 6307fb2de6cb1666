# SPDX-License-Identifier: Apache-2.0
"""The packet-flow catalogue as data, one module for each section of packet-flow.md."""
