# SPDX-License-Identifier: Apache-2.0
"""Shifts new connections of a Service to a canary, and goes on only when every node has the step before in its kernel.

    python examples/canary.py 127.0.0.1:7402 shop web web-stable- web-canary- 5 25 50 100

With TLS: POINTSMAN_TLS="ca.crt tls.key tls.crt".
"""

import os
import sys
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from pointsman.control.v1 import control_service_pb2 as control
from pointsman.control.v1 import override_service_pb2 as overrides
from pointsman.control.v1.control_service_pb2_grpc import ControlServiceStub
from pointsman.control.v1.override_service_pb2_grpc import OverrideServiceStub
from pointsman.types.v1.types_pb2 import NamespacedName


def main(address: str, namespace: str, name: str, stable: str, canary: str, *shares: str) -> None:
    """Give the pods whose names begin with `canary` each share in turn, in percent; `stable` ones get the rest."""
    files = [Path(path).read_bytes() for path in os.environ.get("POINTSMAN_TLS", "").split()]
    tls = grpc.ssl_channel_credentials(*files)
    channel = grpc.secure_channel(address, tls) if files else grpc.insecure_channel(address)
    reads, writes = ControlServiceStub(channel), OverrideServiceStub(channel)
    service = NamespacedName(namespace=namespace, name=name)
    wish = overrides.Override(name=NamespacedName(namespace=namespace, name=f"{name}-canary"), owner="canary.py")
    wish.spec.service_name = name
    wish.spec.ttl.seconds = 600  # should this program die, everything is as before after ten minutes
    held = writes.ListOverrides(overrides.ListOverridesRequest(service=service, owner=wish.owner)).overrides
    wish.etag = next((each.etag for each in held if each.name == wish.name), "")
    for share in map(int, shares):
        slices = reads.GetService(control.GetServiceRequest(name=service)).endpoint_slices
        pods = {each.target.name.name for one in slices for each in one.endpoints if each.ready}
        stables, canaries = (sum(pod.startswith(prefix) for pod in pods) for prefix in (stable, canary))
        weights = {stable: (100 - share) * canaries, canary: share * stables}  # of each pod
        scale = max(1.0, max(weights.values()) / 1000)  # 1000 is the most that one may have
        del wish.spec.weight.rules[:]
        for prefix, weight in weights.items():
            wish.spec.weight.rules.add(weight=round(weight / scale)).endpoints.target_name_prefix = prefix
        wish.etag = writes.ApplyOverride(overrides.ApplyOverrideRequest(override=wish)).override.etag
        wait = control.WaitConvergedRequest(service=control.ServiceTarget(name=service), timeout=Duration(seconds=30))
        answer = reads.WaitConverged(wait, timeout=40)
        if not answer.converged:
            writes.DeleteOverride(overrides.DeleteOverrideRequest(name=wish.name, etag=wish.etag))
            sys.exit(f"{share} %: taken back, since {answer.laggards[0].name} lags: {answer.laggards[0].reason}")
        print(f"{share} %: on all {answer.nodes} nodes", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
