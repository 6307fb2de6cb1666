# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl`: a client of the control API for people and scripts."""
