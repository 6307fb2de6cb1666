# SPDX-License-Identifier: Apache-2.0
"""Converts a KubeProxyConfiguration, and accounts for every field it sets and every default that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pointsman_chassis.settings import API_VERSION, decode_settings
from pointsman_enforcer.convert.kube_proxy import KubeProxyConfiguration
from pointsman_enforcer.convert.rules import Fate, Outcome, Situation, fate_of
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode
from pointsman_enforcer.settings import KIND, METRICS_PORT, EnforcerConfiguration

DEFAULT_MODE: Final = "iptables"
"""What kube-proxy 1.36 does on Linux when no mode is given."""
_ZERO_COUNTS: Final = frozenset(
    {
        "iptables.localhostNodePorts",
        "iptables.masqueradeBit",
        "nftables.masqueradeBit",
        "conntrack.maxPerCore",
        "conntrack.min",
        "conntrack.tcpEstablishedTimeout",
        "conntrack.tcpCloseWaitTimeout",
        "oomScoreAdj",
    }
)
"""Fields in which zero or false is a value; elsewhere kube-proxy takes it for none."""
_ZEROS: Final = (0, False, "0", "0s")
_NODE_PORTS_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


class Row(NamedTuple):
    """One line of the account."""

    field: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """An EnforcerConfiguration and the account of how it came about."""

    fields: Mapping[str, Any]
    """As plain data in the file's form: only what differs from our defaults or was said explicitly."""
    config: EnforcerConfiguration
    """The same, read back."""
    rows: tuple[Row, ...]


def convert(source: KubeProxyConfiguration, data: Mapping[str, Any]) -> Conversion:
    """Convert a configuration; `data` is the same as plain data, from which the rows take their order.

    Raises:
        ConfigError: the result would not be valid.
    """
    situation = Situation(source.mode or DEFAULT_MODE, source.detect_local_mode or DetectLocalMode.CLUSTER_CIDR.value)
    values = dict(set_fields(data))
    fates = {path: fate_of(path, value, situation) for path, value in values.items()}
    unsaid = dict(_differing_defaults(values, situation))
    fields: dict[str, Any] = {}
    for fate in (*unsaid.values(), *fates.values()):
        if fate.target:
            _put(fields, fate.target, fate.value)
    rows = [Row(path, fate.outcome, fate.reason) for path, fate in fates.items()]
    rows += [Row(f"{path} (not set)", fate.outcome, fate.reason) for path, fate in unsaid.items()]
    rows.append(
        Row("plannerAddresses", Outcome.TO_ADD, "host:port of each planner, and `security` to reach them; see deploy/")
    )
    document = {"apiVersion": API_VERSION, "kind": KIND, **fields}
    config = decode_settings(document, EnforcerConfiguration, KIND, source="the result of the conversion")
    return Conversion(fields=fields, config=config, rows=tuple(rows))


def set_fields(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every field that is set, as kube-proxy's defaulting sees it, in the order of the file."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from set_fields(value, f"{path}.")
        elif not _is_unset(path, value):
            yield path, value


def _is_unset(path: str, value: Any) -> bool:
    if value is None or value in ("", []):
        return True
    return value in _ZEROS and path not in _ZERO_COUNTS and not path.startswith("featureGates.")


def _differing_defaults(values: Mapping[str, Any], situation: Situation) -> Iterator[tuple[str, Fate]]:
    """What the source leaves to a default of kube-proxy's that is not ours."""
    mode = situation.mode
    if "mode" not in values:
        reason = "to iptables, kube-proxy's default; nftables, the default here, costs less and can be changed to later"
        yield "mode", Fate(Outcome.CHANGED, reason, "mode", DEFAULT_MODE)
    if "nodePortAddresses" not in values and mode != "nftables":
        reason = f"kube-proxy in mode {mode} accepts node ports on all addresses; here the default is the primary ones"
        yield "nodePortAddresses", Fate(Outcome.CHANGED, reason, "nodePortAddresses", list(_NODE_PORTS_EVERYWHERE))
    if ":" in values.get("bindAddress", "") and "metricsBindAddress" not in values:
        reason = "to [::1], which kube-proxy's default is when bindAddress is an IPv6 address"
        yield "metricsBindAddress", Fate(Outcome.CHANGED, reason, "metricsBindAddress", f"[::1]:{METRICS_PORT}")
    if mode == "nftables" and "nftables.minSyncPeriod" not in values:
        yield (
            "nftables.minSyncPeriod",
            Fate(Outcome.CHANGED, "kube-proxy's default is 1s; here it is 0s, a sync costs what changed"),
        )


def _put(fields: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        fields = fields.setdefault(section, {})
    fields[name] = value
