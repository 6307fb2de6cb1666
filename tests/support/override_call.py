# SPDX-License-Identifier: Apache-2.0
"""One call of OverrideService from inside a lab: `override_call.py ADDRESS CA KEY CERT METHOD`, JSON in and out.

A refusal prints the status code and ends with 1.
"""

import sys
from pathlib import Path

import grpc
from google.protobuf import json_format

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.control.v1.override_service_pb2_grpc import OverrideServiceStub


def main(address: str, ca: str, key: str, certificate: str, method: str) -> int:
    """Make the call."""
    credentials = grpc.ssl_channel_credentials(*(Path(path).read_bytes() for path in (ca, key, certificate)))
    with grpc.secure_channel(address, credentials) as channel:
        request = json_format.Parse(sys.stdin.read(), getattr(pb, f"{method}Request")())
        try:
            answer = getattr(OverrideServiceStub(channel), method)(request, timeout=10)
        except grpc.RpcError as error:
            sys.stdout.write(f"{error.code().name}: {error.details()}\n")
            return 1
    sys.stdout.write(json_format.MessageToJson(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
