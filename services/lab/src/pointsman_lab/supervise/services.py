# SPDX-License-Identifier: Apache-2.0
"""Which processes make up the lab's Pointsman, with which configuration. Pure.

Everything that serves listens where its clients reach it: the watcher and Redis for the planner, in the control place;
the planner and the OTLP sink for the nodes, on the underlay. Plaintext is explicit (`insecure`) and never leaves the lab.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_lab.net.topology import CLUSTER_CIDRS, CONTROL, NodePlace, Topology
from pointsman_lab.settings import LabSettings
from pointsman_lab.statedir import StateDirectory

API_PORT = 6443
WATCHER_PORT = 7443
PLANNER_PORT = 7444
WATCHER_METRICS_PORT = 9443
PLANNER_METRICS_PORT = 9444
REDIS_PORT = 6379
OTLP_PORT = 4317
HEALTHZ_PORT = 10256
METRICS_PORT = 10249
_API_VERSION = "config.pointsman.io/v1alpha1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """One process of ours: its configuration document, command and environment."""

    name: str
    place: str
    config: dict[str, object]
    argv: tuple[str, ...]
    env: Mapping[str, str]


def watcher_plan(settings: LabSettings, topology: Topology, state: StateDirectory) -> ServicePlan:
    """The watcher, in the control place."""
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "WatcherConfiguration",
        "kubeconfig": str(state.internal_kubeconfig),
        "listenAddress": f"{topology.control_address.ipv4}:{WATCHER_PORT}",
        "metricsBindAddress": f"{topology.control_address.ipv4}:{WATCHER_METRICS_PORT}",
        "insecure": True,
    }
    return _plan("watcher", CONTROL, config, settings, topology, state, settings.watcher_command)


def planner_plan(settings: LabSettings, topology: Topology, state: StateDirectory) -> ServicePlan:
    """The planner, in the control place."""
    control = topology.control_address.ipv4
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "PlannerConfiguration",
        "watcherAddresses": [f"{control}:{WATCHER_PORT}"],
        "listenAddress": f"{control}:{PLANNER_PORT}",
        "metricsBindAddress": f"{control}:{PLANNER_METRICS_PORT}",
        "insecure": True,
    }
    if "redis" in settings.services:
        config["redisURL"] = f"redis://{control}:{REDIS_PORT}/0"
    return _plan("planner", CONTROL, config, settings, topology, state, settings.planner_command)


def enforcer_plan(settings: LabSettings, topology: Topology, state: StateDirectory, node: NodePlace) -> ServicePlan:
    """The enforcer of one node, in the node's place."""
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "EnforcerConfiguration",
        "plannerAddresses": [f"{topology.control_address.ipv4}:{PLANNER_PORT}"],
        "hostnameOverride": node.name,
        "stateDirectory": str(state.nodes / node.name),
        "mode": "nftables",
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": ",".join(CLUSTER_CIDRS),
        "nodePortAddresses": list(settings.node_port_addresses),
        "healthzBindAddress": f"0.0.0.0:{HEALTHZ_PORT}",
        "metricsBindAddress": f"0.0.0.0:{METRICS_PORT}",
        "insecure": True,
    }
    return _plan(
        enforcer_name(node.name), node.name, config, settings, topology, state, settings.enforcer_command, "enforcer"
    )


def enforcer_name(node: str) -> str:
    """The process name of a node's enforcer."""
    return f"enforcer-{node}"


def _plan(
    name: str,
    place: str,
    config: dict[str, object],
    settings: LabSettings,
    topology: Topology,
    state: StateDirectory,
    command: tuple[str, ...],
    service: str | None = None,
) -> ServicePlan:
    program = command or (sys.executable, "-m", f"pointsman_{service or name}")
    return ServicePlan(
        name=name,
        place=place,
        config=config,
        argv=(*program, "--config", str(state.config / f"{name}.yaml")),
        env=_environment(service or name, place, settings, topology),
    )


def _environment(service: str, place: str, settings: LabSettings, topology: Topology) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", "OTEL_SERVICE_NAME": f"pointsman-{service}"}
    if "otlp" in settings.services:
        env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{topology.control_address.ipv4}:{OTLP_PORT}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds: a person waits for the waterfall
            "OTEL_RESOURCE_ATTRIBUTES": f"host.name={place}",
        }
    return env | settings.environment
