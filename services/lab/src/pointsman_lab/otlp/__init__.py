# SPDX-License-Identifier: Apache-2.0
"""A small OTLP sink: keeps the latest traces, shows one as a waterfall, exports it for Jaeger."""
