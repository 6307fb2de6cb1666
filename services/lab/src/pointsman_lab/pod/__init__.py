# SPDX-License-Identifier: Apache-2.0
"""Pods: the echo server that stands for every container image, and its life on a node."""
