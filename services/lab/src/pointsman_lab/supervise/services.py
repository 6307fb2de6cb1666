# SPDX-License-Identifier: Apache-2.0
"""Which processes make up the lab's Pointsman, with which configuration. Pure.

Each watcher and planner serves on its own address of the underlay. All of them know each other by certificates that the
lab's authority has signed: a node's by the name `system:node:NAME`, the others by the name of their machine.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pointsman_lab.net.topology import CLUSTER_CIDRS, DualStack, MemberPlace, NodePlace, Topology
from pointsman_lab.pki import ADMIN_NAME, Pki
from pointsman_lab.settings import LabSettings
from pointsman_lab.statedir import StateDirectory

API_PORT = 6443
WATCHER_PORT = 7443
PLANNER_PORT = 7444
WATCHER_METRICS_PORT = 9443
PLANNER_METRICS_PORT = 9444
REDIS_PORT = 6379
OTLP_PORT = 4317
OTLP_HTTP_PORT = 4318
HEALTHZ_PORT = 10256
METRICS_PORT = 10249
_CLOCK_DIRECTORY = Path(__file__).with_name("clock")
_API_VERSION = "config.pointsman.io/v1alpha1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """One process of ours: its configuration document, command and environment."""

    name: str
    place: str
    config: dict[str, object]
    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every service's configuration depends on."""

    settings: LabSettings
    state: StateDirectory

    @property
    def topology(self) -> Topology:
        """All places of the lab."""
        return self.settings.topology


def watcher_plan(site: Site, member: MemberPlace) -> ServicePlan:
    """A watcher, on its machine."""
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "WatcherConfiguration",
        "kubernetes": {"kubeconfig": str(site.state.internal_kubeconfig)},
        "listenAddress": _at(member.address, WATCHER_PORT),
        "metricsBindAddress": _at(member.address, WATCHER_METRICS_PORT),
        "planners": [planner.name for planner in site.topology.planners],
        "security": _security(site, member.name),
    }
    return _plan(member.name, member.name, config, site, "watcher")


def planner_plan(site: Site, member: MemberPlace) -> ServicePlan:
    """A planner, on its machine."""
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "PlannerConfiguration",
        "plannerID": member.name,
        "watcherAddresses": [_at(watcher.address, WATCHER_PORT) for watcher in site.topology.watchers],
        "listenAddress": _at(member.address, PLANNER_PORT),
        "metricsBindAddress": _at(member.address, PLANNER_METRICS_PORT),
        # People delete everything in a lab, and do not want to wait a minute for it.
        "massDeleteGuard": {"holdFor": "2s"},
        "access": {
            "rules": [
                {"groups": ["system:authenticated"], "namespaces": ["*"]},
                {"users": [ADMIN_NAME], "verbs": ["*"], "namespaces": ["*"]},
            ]
        },
        "security": _security(site, member.name),
    }
    if "redis" in site.settings.services:
        address = _at(site.topology.redis.address, REDIS_PORT)
        config["redisURL"] = f"rediss://{address}/0"
        config["redis"] = _security(site, member.name)
    return _plan(member.name, member.name, config, site, "planner")


def enforcer_plan(site: Site, node: NodePlace) -> ServicePlan:
    """The enforcer of one node, in the node's place."""
    config: dict[str, object] = {
        "apiVersion": _API_VERSION,
        "kind": "EnforcerConfiguration",
        "plannerAddresses": [_at(planner.address, PLANNER_PORT) for planner in site.topology.planners],
        "hostnameOverride": node.name,
        "stateDirectory": str(site.state.nodes / node.name),
        "mode": site.settings.mode,
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": ",".join(CLUSTER_CIDRS),
        "nodePortAddresses": list(site.settings.node_port_addresses),
        "healthzBindAddress": f"0.0.0.0:{HEALTHZ_PORT}",
        "metricsBindAddress": f"0.0.0.0:{METRICS_PORT}",
        "security": _security(site, node.name),
        **site.settings.enforcer_config,
    }
    return _plan(enforcer_name(node.name), node.name, config, site, "enforcer")


def ctl_config(site: Site) -> dict[str, object]:
    """The configuration of `pointsmanctl` for whoever calls it inside the lab."""
    planners = site.topology.planners
    identity = Pki(directory=site.state.pki).admin
    context: dict[str, object] = {
        "name": site.settings.name,
        "servers": [_at(planner.address, PLANNER_PORT) for planner in planners],
        "security": {
            "certFile": str(identity.certificate),
            "keyFile": str(identity.key),
            "caFile": str(identity.ca),
        },
        "pages": [f"http://{_at(planner.address, PLANNER_METRICS_PORT)}" for planner in planners],
        "kubeconfig": str(site.state.internal_kubeconfig),
    }
    return {"apiVersion": _API_VERSION, "kind": "CtlConfiguration", "contexts": [context]}


def _at(address: DualStack, port: int) -> str:
    return f"{address.ipv4}:{port}"


def _security(site: Site, name: str) -> dict[str, object]:
    identity = Pki(directory=site.state.pki).identity(name)
    return {"certFile": str(identity.certificate), "keyFile": str(identity.key), "caFile": str(identity.ca)}


def enforcer_name(node: str) -> str:
    """The process name of a node's enforcer."""
    return f"enforcer-{node}"


def _plan(name: str, place: str, config: dict[str, object], site: Site, service: str) -> ServicePlan:
    commands = {
        "watcher": site.settings.watcher_command,
        "planner": site.settings.planner_command,
        "enforcer": site.settings.enforcer_command,
    }
    program = commands[service] or (sys.executable, "-m", f"pointsman_{service}")
    return ServicePlan(
        name=name,
        place=place,
        config=config,
        argv=(*program, "--config", str(site.state.config / f"{name}.yaml")),
        env=_environment(service, name, place, site),
    )


def _environment(service: str, name: str, place: str, site: Site) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", "OTEL_SERVICE_NAME": f"pointsman-{service}"}
    if site.settings.stepped_clocks:
        inherited = os.environ.get("PYTHONPATH", "")
        env["PYTHONPATH"] = f"{_CLOCK_DIRECTORY}{os.pathsep + inherited if inherited else ''}"
        env["POINTSMAN_LAB_CLOCK"] = str(site.state.clock(name))
    if "otlp" in site.settings.services:
        identity = Pki(directory=site.state.pki).identity(place)
        env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{site.topology.control_address.ipv4}:{OTLP_PORT}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(identity.ca),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(identity.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(identity.key),
            "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds: a person waits for the waterfall
            "OTEL_RESOURCE_ATTRIBUTES": f"host.name={place}",
        }
    return env | site.settings.environment
