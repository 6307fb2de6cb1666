# SPDX-License-Identifier: Apache-2.0
"""Opens real connections and says how each ended. Uses nothing but the standard library and this file.

So it can be sent to any place that has Python 3: `python3 -c SOURCE` with the targets, as JSON, on standard input,
and the answers on standard output. A target is [address, port, protocol]; an answer is [outcome, milliseconds,
detail, source]:

    connected   TCP: the handshake was done; UDP: an answer came
    refused     TCP: RST or ICMP; UDP: ICMP
    timeout     nothing came back
    error       it could not be tried, or ended otherwise; `detail` says how
"""

import contextlib
import errno
import json
import socket
import sys
import time


def probe(address: str, port: int, protocol: str, timeout_seconds: float) -> tuple[str, float, str, str]:
    """One connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    started = time.monotonic()
    source = ""
    with socket.socket(family, kind) as dialled:
        dialled.settimeout(timeout_seconds)
        try:
            dialled.connect((address, port))
            source = str(dialled.getsockname()[0])
            if protocol == "UDP":
                dialled.send(b"pointsmanctl\n")
                dialled.recv(2048)
            outcome, detail = "connected", ""
        except TimeoutError:
            outcome, detail = "timeout", ""
        except OSError as error:
            outcome = "refused" if error.errno in _REFUSALS else "error"
            detail = "" if outcome == "refused" else str(error)
    return outcome, (time.monotonic() - started) * 1000, detail, source


_REFUSALS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPERM)
"""EPERM is how a process of the node itself learns that its UDP packet was rejected on the way out."""


def source_address(address: str) -> str:
    """The address that packets from here to there would have; empty when there is no way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as dialled:
        dialled.connect((address, 9))
        return str(dialled.getsockname()[0])
    return ""


def main() -> None:
    """Read requests from standard input, write answers."""
    request = json.load(sys.stdin)
    answers: list[list[tuple[str, float, str, str]]] = []
    for address, port, protocol in request["targets"]:
        if request["attempts"] == 0:
            answers.append([("", 0.0, "", source_address(address))])
            continue
        answers.append([probe(address, port, protocol, request["timeout"]) for _ in range(request["attempts"])])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
