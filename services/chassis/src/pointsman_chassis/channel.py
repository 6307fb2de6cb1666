# SPDX-License-Identifier: Apache-2.0
"""Opening a gRPC channel the way every Pointsman client does."""

import grpc.aio

from pointsman_chassis.credentials import channel_credentials
from pointsman_chassis.grpc_options import KEEPALIVE_TIME_SECONDS, KEEPALIVE_TIMEOUT_SECONDS, common_options
from pointsman_chassis.tls import TransportSecurity, require_local


def open_channel(
    address: str,
    *,
    security: TransportSecurity,
    keepalive_time_seconds: float = KEEPALIVE_TIME_SECONDS,
    keepalive_timeout_seconds: float = KEEPALIVE_TIMEOUT_SECONDS,
    reconnect_seconds_max: float = 5.0,
    connect_seconds: float = 5.0,
) -> grpc.aio.Channel:
    """A channel to `address` (`host:port`, `[v6]:port`, `dns:///name:port`, `unix:path`); it connects on first use.

    An attempt to connect, TLS and the first answer included, may take `connect_seconds`: a server that a thousand
    clients come back to at once answers late, and is not to be taken for dead. One that refuses is tried again at once.

    Proxies of the environment are ignored: these are connections inside a cluster. Each channel has its own
    connection, so that closing one stream's channel closes its socket. Raises ConfigError for unusable certificates,
    and for plaintext to another machine.
    """
    options = [
        *common_options(
            keepalive_time_seconds=keepalive_time_seconds, keepalive_timeout_seconds=keepalive_timeout_seconds
        ),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(connect_seconds * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(reconnect_seconds_max * 1000)),
    ]
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    credentials = channel_credentials(security)
    if credentials is None:
        require_local(address, what="dial")
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)
