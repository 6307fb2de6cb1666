# SPDX-License-Identifier: Apache-2.0
"""The gRPC settings that both ends must agree on, in one place."""

from typing import Final

MESSAGE_BYTES_MAX: Final = 4 << 20
"""Largest message in either direction; streams split their transactions below it."""
KEEPALIVE_TIME_SECONDS: Final = 10.0
"""Silence after which a peer is pinged."""
KEEPALIVE_TIMEOUT_SECONDS: Final = 5.0
"""Time a pinged peer has to answer before its connection is closed."""

Options = list[tuple[str, int | str]]


def common_options(*, keepalive_time_seconds: float, keepalive_timeout_seconds: float) -> Options:
    """Options that are the same for servers and channels."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", round(keepalive_time_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
