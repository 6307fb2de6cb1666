# SPDX-License-Identifier: Apache-2.0
"""A directory for PYTHONPATH: what Python imports by itself sets the clock."""
