# SPDX-License-Identifier: Apache-2.0
"""Another kernel on this machine: a User-Mode-Linux guest, for what the machine's own kernel does not have (IPVS)."""
