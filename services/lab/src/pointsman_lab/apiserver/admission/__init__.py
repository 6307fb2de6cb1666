# SPDX-License-Identifier: Apache-2.0
"""What happens to an object before it is stored: defaults, allocations, validation. One module per kind of rule."""
