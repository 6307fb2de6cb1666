# SPDX-License-Identifier: Apache-2.0
"""What the enforcer tells the kernel, walked through by packets that do not exist."""
