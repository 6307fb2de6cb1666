# SPDX-License-Identifier: Apache-2.0
"""The API server on its own: `python -m pointsman_lab.apiserver`, for trying clients without a lab around it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_lab.apiserver.auth import server_tls
from pointsman_lab.apiserver.bootstrap import ClusterOptions, new_cluster
from pointsman_lab.apiserver.server import ApiServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.apiserver.registry import Registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; gives the exit status: 0, or 2 for options that make no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.cert) != bool(options.key):
        parser.error("--cert and --key go together: TLS needs both")
    try:
        registry = new_cluster(
            ClusterOptions(
                service_cidrs=tuple(options.service_cidrs.split(",")),
                node_ports=_port_range(options.node_ports),
                api_addresses=() if _is_loopback(options.host) else (options.host,),
                api_port=options.port,
            )
        )
        server_options = ServerOptions(
            tls=server_tls(options.cert, options.key, options.client_ca) if options.cert else None,
            tokens=_read_tokens(options.token_file) if options.token_file else {},
            anonymous=options.anonymous or not (options.token_file or options.client_ca),
            bookmark_seconds=options.bookmark_seconds,
        )
    except (OSError, ValueError) as error:
        print(f"pointsman_lab.apiserver: {error}", file=sys.stderr)
        return 2
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(registry, server_options, options.host, options.port))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.apiserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--cert", type=Path, help="server certificate (PEM); without it the server speaks plain HTTP")
    parser.add_argument("--key", type=Path, help="private key of the certificate (PEM)")
    parser.add_argument("--client-ca", type=Path, help="CA whose client certificates are accepted (PEM)")
    parser.add_argument("--token-file", type=Path, help="bearer tokens, one 'token,user' per line")
    parser.add_argument("--anonymous", action="store_true", help="also serve requests without credentials")
    parser.add_argument("--service-cidrs", default="10.96.0.0/12,fd00:10:96::/112", help="default %(default)s")
    parser.add_argument("--node-ports", default="30000-32767", help="node port range (default %(default)s)")
    parser.add_argument(
        "--bookmark-seconds", type=float, default=30.0, help="time between bookmarks (default %(default)s)"
    )
    return parser


def _port_range(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) <= 65535):
        raise ValueError(f"--node-ports {text!r} is no range; write it as 30000-32767")
    return range(int(first), int(last) + 1)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _read_tokens(path: Path) -> dict[str, str]:
    tokens = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        token, _, user = line.partition(",")
        if not token or not user:
            raise ValueError(f"{path} line {number}: write it as token,user")
        tokens[token.strip()] = user.partition(",")[0].strip()
    return tokens


async def _serve(registry: Registry, options: ServerOptions, host: str, port: int) -> None:
    server = ApiServer(registry, options)
    await server.start(host=host, port=port)
    print(server.url, flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    sys.exit(main())
