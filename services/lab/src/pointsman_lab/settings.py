# SPDX-License-Identifier: Apache-2.0
"""What a lab is asked to be. Written to the state directory once and read by the control process."""

from pathlib import Path
from typing import Any

import msgspec

from pointsman_lab.net.topology import Topology, build_topology
from pointsman_lab.statedir import DEFAULT_ROOT


class LabSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lab.

    Attributes:
        name: distinguishes labs that run side by side.
        root: where the state directory is made.
        nodes: number of nodes, from 1.
        zones: number of zones the nodes take in turn.
        watchers, planners: how many of each; each is a machine of its own.
        controllers: whether the lab makes pods and EndpointSlices; without, the API holds only what you write.
        services: whether watcher, planner and enforcers are started. A tuple of names starts only those, of
            `watcher`, `planner`, `enforcer`, `redis`, `otlp`.
        watcher_command, planner_command, enforcer_command: how they are started; empty means this interpreter with -m.
        mode: enforcers' mode.
        enforcer_config: added to the configuration of every enforcer, section by section.
        node_port_addresses: enforcers' nodePortAddresses.
        stepped_clocks: whether the wall clocks of the services can be set, see `Cluster.step_clock`.
        environment: added to the environment of the services.
        api_port: host loopback port of the API server, 0 picks a free one.
        start_timeout_seconds: how long each process may take to become ready.
    """

    name: str = "default"
    root: str = str(DEFAULT_ROOT)
    nodes: int = 3
    zones: int = 2
    watchers: int = 2
    planners: int = 3
    controllers: bool = True
    services: tuple[str, ...] = ("redis", "otlp", "watcher", "planner", "enforcer")
    watcher_command: tuple[str, ...] = ()
    planner_command: tuple[str, ...] = ()
    enforcer_command: tuple[str, ...] = ()
    mode: str = "nftables"
    enforcer_config: dict[str, Any] = {}
    node_port_addresses: tuple[str, ...] = ("primary",)
    stepped_clocks: bool = False
    environment: dict[str, str] = {}
    api_port: int = 0
    start_timeout_seconds: float = 30.0

    @property
    def topology(self) -> Topology:
        """All places of the lab.

        Raises:
            LabUsageError: an impossible size.
        """
        return build_topology(nodes=self.nodes, zones=self.zones, watchers=self.watchers, planners=self.planners)

    @property
    def root_path(self) -> Path:
        """`root` as a path."""
        return Path(self.root)


def encode_settings(settings: LabSettings) -> bytes:
    """As JSON."""
    return msgspec.json.encode(settings)


def decode_settings(data: bytes) -> LabSettings:
    """From JSON.

    Raises:
        msgspec.ValidationError: unknown or ill-typed fields.
    """
    return msgspec.json.decode(data, type=LabSettings)
