# SPDX-License-Identifier: Apache-2.0
"""One folder per way of putting a plan into the kernel."""
