# SPDX-License-Identifier: Apache-2.0
"""The userspace backend: a proxy that accepts and dials, where nothing better is to be had. See DESIGN.md."""
