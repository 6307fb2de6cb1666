# SPDX-License-Identifier: Apache-2.0
"""A pod as its node sees it: the server's settings from the spec, and the status it reports. Pure."""

from dataclasses import dataclass

from pointsman_lab.controller.objects import (
    Object,
    annotations,
    condition,
    container_ports,
    name,
    namespace,
    seconds_annotation,
    spec,
    status,
)
from pointsman_lab.net.topology import DualStack

READINESS_DELAY_ANNOTATION = "lab.pointsman.io/readiness-delay-seconds"
DRAIN_ANNOTATION = "lab.pointsman.io/drain-seconds"
FAIL_READINESS_ANNOTATION = "lab.pointsman.io/fail-readiness-on-termination"
DRAIN_SECONDS = 1.0
GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What the node knows of the running server of a pod."""

    is_running: bool
    is_ready: bool
    restarts: int
    started_at: str | None


def echo_settings(pod: Object, addresses: DualStack) -> Object:
    """The argument of the echo server; a pod without declared ports listens on TCP 80 and 8080."""
    ports = [[port.get("protocol", "TCP"), int(port["containerPort"])] for port in container_ports(pod)]
    return {
        "pod": name(pod),
        "namespace": namespace(pod),
        "node": spec(pod)["nodeName"],
        "addresses": list(addresses),
        "ports": ports or [["TCP", 80], ["TCP", 8080]],
        "readiness_delay_seconds": seconds_annotation(pod, READINESS_DELAY_ANNOTATION, 0.0),
        "drain_seconds": seconds_annotation(pod, DRAIN_ANNOTATION, DRAIN_SECONDS),
        "grace_seconds": grace_seconds(pod),
        "fail_readiness_on_termination": annotations(pod).get(FAIL_READINESS_ANNOTATION) == "true",
    }


def grace_seconds(pod: Object) -> float:
    """How long the pod may take to end."""
    grace = pod["metadata"].get("deletionGracePeriodSeconds", spec(pod).get("terminationGracePeriodSeconds"))
    return GRACE_SECONDS if grace is None else float(grace)


def pod_status(pod: Object, container: Container, addresses: DualStack, node_ip: str, now: str) -> Object:
    """The status a kubelet would report."""
    ready = "True" if container.is_ready else "False"
    states = {
        "PodScheduled": "True",
        "Initialized": "True",
        "PodReadyToStartContainers": "True",
        "ContainersReady": ready,
        "Ready": ready,
    }
    state: Object = (
        {"running": {"startedAt": container.started_at}}
        if container.is_running
        else {"waiting": {"reason": "CrashLoopBackOff" if container.restarts else "ContainerCreating"}}
    )
    return {
        "phase": "Running" if container.is_running or container.restarts else "Pending",
        "conditions": [_condition(pod, kind, value, now) for kind, value in states.items()],
        "hostIP": node_ip,
        "hostIPs": [{"ip": node_ip}],
        "podIP": addresses.ipv4,
        "podIPs": [{"ip": ip} for ip in addresses],
        "startTime": status(pod).get("startTime") or now,
        "qosClass": "BestEffort",
        "containerStatuses": [
            {
                "name": entry.get("name", "server"),
                "image": entry.get("image", ""),
                "imageID": "",
                "ready": container.is_ready,
                "started": container.is_running,
                "restartCount": container.restarts,
                "state": state,
            }
            for entry in spec(pod).get("containers") or ()
        ],
    }


def unschedulable_status(pod: Object, now: str) -> Object:
    """The status of a pod no node fits."""
    entry = _condition(pod, "PodScheduled", "False", now)
    entry |= {"reason": "Unschedulable", "message": "no node is ready, schedulable and matches nodeSelector"}
    return {"phase": "Pending", "conditions": [entry]}


def _condition(pod: Object, kind: str, value: str, now: str) -> Object:
    old = condition(pod, kind)
    transition = old.get("lastTransitionTime", now) if old and old.get("status") == value else now
    return {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": transition}
