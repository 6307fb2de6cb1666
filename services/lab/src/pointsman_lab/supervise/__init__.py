# SPDX-License-Identifier: Apache-2.0
"""The lab's processes: configuration, start, readiness, restart, signals, logs."""
