# SPDX-License-Identifier: Apache-2.0
"""The API server: credentials, requests, and one reflector for each resource."""
