# SPDX-License-Identifier: Apache-2.0
"""The pure part of the enforcer: the stream's rules, the plan held, its form on disk, health. No IO anywhere."""
