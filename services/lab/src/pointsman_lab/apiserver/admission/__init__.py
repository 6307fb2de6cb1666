# SPDX-License-Identifier: Apache-2.0
"""What the API server does to an object before it stores it: defaults, allocations, validation. One module per kind of rule."""
