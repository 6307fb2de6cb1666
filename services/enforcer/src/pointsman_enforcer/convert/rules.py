# SPDX-License-Identifier: Apache-2.0
"""What becomes of each field that a KubeProxyConfiguration sets: one rule for each, looked up by path.

A rule takes the value and what the configuration says of the mode, and answers with what to say and what to write. A
section without rules of its own, or a field with a fixed fate, stands in the table of reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pointsman_enforcer.dataplane.node_settings import DetectLocalMode
from pointsman_enforcer.health.bind_address import parse_bind_address
from pointsman_enforcer.settings import HEALTHZ_PORT, METRICS_PORT


class Outcome(Enum):
    """What becomes of a field."""

    CARRIED = "carried over"
    CHANGED = "changed"
    IGNORED = "ignored"
    TO_ADD = "to be added"


class Situation(NamedTuple):
    """What the fate of a field may depend on besides its value: the mode, and how pods are recognised."""

    mode: str
    detect_local_mode: str


class Fate(NamedTuple):
    """What becomes of one field. `target` is the path to write `value` to; empty = nothing is written."""

    outcome: Outcome
    reason: str = ""
    target: str = ""
    value: Any = None


Rule = Callable[[str, Any, Situation], Fate]

_API: Final = "the enforcer does not talk to the API server; watchers do, once for the whole cluster"
_WINDOWS: Final = "for Windows"
_LOGS: Final = "each line is written at once"
REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "clientConnection": _API,
        "configSyncPeriod": _API,
        "featureGates": "kube-proxy's feature gates do not exist here; what is on by default in 1.36 is on",
        "winkernel": _WINDOWS,
        "windowsRunAsService": _WINDOWS,
        "portRange": "of the userspace mode, whose proxy here listens at any ports that the kernel gives it",
        "resourceContainer": "kube-proxy no longer has it",
        "conntrack.max": "kube-proxy no longer has it; conntrack.maxPerCore and conntrack.min set the maximum",
        "metadata": "kube-proxy does not read it either",
        "enableProfiling": "there is no profiling page",
        "showHiddenMetricsForVersion": "no metrics are hidden",
        "logging.flushFrequency": _LOGS,
        "logging.options": _LOGS,
        "logging.vmodule": "levels are not set for single files",
    }
)
_MODE_SECTIONS: Final = frozenset({"iptables", "ipvs", "nftables"})
_PERIODS: Final = frozenset({"syncPeriod", "minSyncPeriod"})
_READ_FROM_IPTABLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"ipvs": frozenset({"masqueradeAll", "masqueradeBit"}), "userspace": _PERIODS}
)
"""What other modes of kube-proxy take from the section `iptables`."""
_IPVS_BIT: Final = "the ipvs mode here has bits of its own for that: see docs/modes.md"


def fate_of(path: str, value: Any, situation: Situation) -> Fate:
    """What becomes of the field at `path`."""
    section, _, name = path.partition(".")
    if section in _MODE_SECTIONS:
        return _in_section_of_mode(section, name, value, situation)
    rule = _RULES.get(path) or _RULES.get(section)
    if rule is not None and path not in REASONS:
        return rule(path, value, situation)
    return Fate(Outcome.IGNORED, REASONS.get(path) or REASONS.get(section) or REASONS[_parent(path)])


def _parent(path: str) -> str:
    return ".".join(path.split(".")[:2])


def reads(situation: Situation, section: str, name: str) -> bool:
    """Whether kube-proxy in this mode reads a field of a mode's section."""
    shared = _READ_FROM_IPTABLES.get(situation.mode, frozenset())
    return section == situation.mode or (section == "iptables" and name in shared)


def _in_section_of_mode(section: str, name: str, value: Any, situation: Situation) -> Fate:
    if not reads(situation, section, name):
        return Fate(Outcome.IGNORED, f"kube-proxy in mode {situation.mode} does not read it either")
    if situation.mode == "ipvs" and name == "masqueradeBit":
        return Fate(Outcome.IGNORED, _IPVS_BIT)
    if situation.mode == "userspace":
        return Fate(Outcome.CHANGED, f"now userspace.{name}", f"userspace.{name}", value)
    is_needless = section == "nftables" and name == "minSyncPeriod"
    hint = "0s would do, a sync here costs what changed" if is_needless else ""
    return Fate(Outcome.CARRIED, hint, f"{section}.{name}", value)


def _same(path: str, value: Any, _: Situation) -> Fate:
    return Fate(Outcome.CARRIED, "", path, value)


def _udp_idle_timeout(_: str, value: Any, situation: Situation) -> Fate:
    if situation.mode != "userspace":
        return Fate(Outcome.IGNORED, f"of the userspace mode; kube-proxy in mode {situation.mode} does not read it")
    return Fate(Outcome.CHANGED, "now userspace.udpIdleTimeout", "userspace.udpIdleTimeout", value)


def _bind_address(path: str, value: Any, _: Situation) -> Fate:
    if value in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return Fate(Outcome.CARRIED, "the default here, too: the Node object says what the primary addresses are")
    return Fate(Outcome.CARRIED, "", path, value)


def _page_address(path: str, value: Any, _: Situation) -> Fate:
    port = HEALTHZ_PORT if path == "healthzBindAddress" else METRICS_PORT
    address = parse_bind_address(value, port, path)
    if address is None:
        raise ValueError(f"{path}: an empty value counts as none and has no fate")
    host = f"[{address.host}]" if ":" in address.host else address.host
    full = f"{host}:{address.port}"
    if full == value:
        return Fate(Outcome.CARRIED, "", path, value)
    return Fate(Outcome.CHANGED, f"to {full}: the port was kube-proxy's default", path, full)


def _cluster_cidr(path: str, value: Any, situation: Situation) -> Fate:
    is_used = situation.detect_local_mode == DetectLocalMode.CLUSTER_CIDR.value
    reason = "" if is_used else f"without effect with detectLocalMode {situation.detect_local_mode}"
    return Fate(Outcome.CARRIED, reason, path, value)


def _detect_local(path: str, value: Any, situation: Situation) -> Fate:
    mode = {
        "detectLocal.bridgeInterface": DetectLocalMode.BRIDGE_INTERFACE,
        "detectLocal.interfaceNamePrefix": DetectLocalMode.INTERFACE_NAME_PREFIX,
    }[path]
    if mode.value == situation.detect_local_mode:
        return Fate(Outcome.CARRIED, "", path, value)
    return Fate(Outcome.IGNORED, f"kube-proxy reads it only with detectLocalMode {mode.value}")


def _verbosity(_: str, value: Any, __: Situation) -> Fate:
    level = "debug" if value >= 4 else "info"
    return Fate(Outcome.CHANGED, f"now logging.level {level}", "logging.level", level)


def _log_format(path: str, value: Any, _: Situation) -> Fate:
    if value == "json":
        return Fate(Outcome.CARRIED, "", path, value)
    return Fate(Outcome.CHANGED, "to console: lines for people", path, "console")


_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "mode": _same,
        "udpIdleTimeout": _udp_idle_timeout,
        "hostnameOverride": _same,
        "bindAddress": _bind_address,
        "healthzBindAddress": _page_address,
        "metricsBindAddress": _page_address,
        "bindAddressHardFail": _same,
        "detectLocalMode": _same,
        "detectLocal": _detect_local,
        "clusterCIDR": _cluster_cidr,
        "nodePortAddresses": _same,
        "oomScoreAdj": _same,
        "conntrack": _same,
        "logging.verbosity": _verbosity,
        "logging.format": _log_format,
    }
)
