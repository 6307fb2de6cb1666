# SPDX-License-Identifier: Apache-2.0
"""Looks at planners, at the cluster and at this machine, for `check`; the core judges what is seen.

A look that fails is a result too: nothing that one check meets keeps the others from being made.
"""
