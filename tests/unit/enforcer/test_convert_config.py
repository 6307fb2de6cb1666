# SPDX-License-Identifier: Apache-2.0
"""KubeProxyConfigurations as tools write them, and what they come to here: every field is accounted for."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import Settings, parse_settings
from pointsman_enforcer.convert.command import convert_file, table
from pointsman_enforcer.convert.conversion import Conversion, convert, set_fields
from pointsman_enforcer.convert.kube_proxy import KubeProxyConfiguration
from pointsman_enforcer.convert.rules import Outcome, Situation, fate_of
from pointsman_enforcer.convert.source import read_source
from pointsman_enforcer.settings import KIND, EnforcerConfiguration

EXAMPLES = Path(__file__).parent / "kube_proxy_configurations"
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
EVERYWHERE = ["0.0.0.0/0", "::/0"]


def example(name: str) -> Conversion:
    return convert(*read_source((EXAMPLES / f"{name}.yaml").read_bytes(), name))


def converted(text: str) -> Conversion:
    return convert(*read_source(HEAD + text, "test"))


def outcomes(conversion: Conversion) -> dict[str, Outcome]:
    return {row.field: row.outcome for row in conversion.rows}


def reason(conversion: Conversion, field: str) -> str:
    return next(row.reason for row in conversion.rows if row.field == field)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        converted(text)
    return str(caught.value).split("\n  ")[1:]


def test_kubeadms_config_map_sets_almost_nothing() -> None:
    conversion = example("kubeadm")
    assert conversion.fields == {
        "mode": "iptables",
        "nodePortAddresses": EVERYWHERE,
        "clusterCIDR": "10.244.0.0/16",
    }
    assert outcomes(conversion) == {
        "bindAddress": Outcome.CARRIED,
        "clientConnection.kubeconfig": Outcome.IGNORED,
        "clusterCIDR": Outcome.CARRIED,
        "mode (not set)": Outcome.CHANGED,
        "nodePortAddresses (not set)": Outcome.CHANGED,
        "plannerAddresses": Outcome.TO_ADD,
    }


def test_kubesprays_ipvs_takes_masquerading_from_the_iptables_section() -> None:
    conversion = example("kubespray-ipvs")
    assert conversion.fields == {
        "nodePortAddresses": EVERYWHERE,
        "clusterCIDR": "10.233.64.0/18",
        "conntrack": {
            "maxPerCore": 32768,
            "min": 131072,
            "tcpCloseWaitTimeout": "1h0m0s",
            "tcpEstablishedTimeout": "24h0m0s",
        },
        "healthzBindAddress": "0.0.0.0:10256",
        "hostnameOverride": "node1",
        "iptables": {"masqueradeAll": True},
        "ipvs": {"scheduler": "rr", "syncPeriod": "30s", "strictARP": True},
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "ipvs",
        "oomScoreAdj": -999,
    }
    found = outcomes(conversion)
    assert found["mode"] is Outcome.CARRIED
    assert found["iptables.masqueradeAll"] is Outcome.CARRIED
    assert found["iptables.masqueradeBit"] is Outcome.IGNORED
    assert found["iptables.syncPeriod"] is Outcome.IGNORED
    assert found["ipvs.syncPeriod"] is found["ipvs.scheduler"] is found["ipvs.strictARP"] is Outcome.CARRIED
    assert conversion.config.node_settings().masquerade_all
    assert "mode ipvs does not read it" in reason(conversion, "iptables.syncPeriod")


def test_kinds_file_has_metadata_that_nobody_reads() -> None:
    conversion = example("kind")
    assert conversion.fields == {
        "mode": "iptables",
        "nodePortAddresses": EVERYWHERE,
        "iptables": {"minSyncPeriod": "1s"},
        "conntrack": {"maxPerCore": 0},
    }
    found = outcomes(conversion)
    assert found["metadata.name"] is Outcome.IGNORED
    assert found["iptables.minSyncPeriod"] is Outcome.CARRIED
    assert found["conntrack.maxPerCore"] is Outcome.CARRIED
    assert conversion.config.conntrack.sysctls().maximum(cores=64) == 0


def test_zeros_of_a_user_namespace_leave_the_host_alone() -> None:
    conversion = example("rootless")
    assert conversion.fields["conntrack"] == {
        "maxPerCore": 0,
        "tcpCloseWaitTimeout": "0s",
        "tcpEstablishedTimeout": "0s",
    }


def test_a_minimal_file_for_nftables_stays_what_it_is() -> None:
    conversion = example("minimal")
    assert conversion.fields == {"mode": "nftables", "clusterCIDR": "10.0.0.0/16,fd00:10::/56"}
    assert conversion.config.node_port_addresses == ("primary",)
    assert outcomes(conversion)["mode"] is Outcome.CARRIED
    assert "nodePortAddresses (not set)" not in outcomes(conversion)


def test_every_field_has_a_row_and_its_place() -> None:
    conversion = example("every-field")
    assert conversion.fields == {
        "logging": {"format": "console", "level": "debug"},
        "hostnameOverride": "worker-7",
        "bindAddress": "2001:db8::7",
        "healthzBindAddress": "[::]:10256",
        "metricsBindAddress": "192.0.2.7:10249",
        "bindAddressHardFail": True,
        "mode": "iptables",
        "iptables": {
            "masqueradeBit": 0,
            "masqueradeAll": True,
            "localhostNodePorts": False,
            "syncPeriod": "1m0s",
            "minSyncPeriod": "500ms",
        },
        "detectLocalMode": "InterfaceNamePrefix",
        "detectLocal": {"interfaceNamePrefix": "veth"},
        "clusterCIDR": "10.0.0.0/16",
        "nodePortAddresses": ["192.0.2.0/24", "2001:db8::/64"],
        "oomScoreAdj": 0,
        "conntrack": {
            "maxPerCore": 0,
            "min": 65536,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "30m0s",
            "tcpBeLiberal": True,
            "udpTimeout": "45s",
            "udpStreamTimeout": "3m0s",
        },
    }
    data = yaml.safe_load((EXAMPLES / "every-field.yaml").read_text())
    wanted = [path for path, _ in set_fields({k: v for k, v in data.items() if k not in {"apiVersion", "kind"}})]
    rows = [row for row in conversion.rows if row.outcome is not Outcome.TO_ADD]
    assert [row.field for row in rows if not row.field.endswith("(not set)")] == wanted
    assert all(row.reason for row in rows if row.outcome is not Outcome.CARRIED), "whatever is not carried has a why"
    assert reason(conversion, "clusterCIDR") == "without effect with detectLocalMode InterfaceNamePrefix"
    assert outcomes(conversion)["detectLocal.bridgeInterface"] is Outcome.IGNORED
    assert outcomes(conversion)["nftables.masqueradeBit"] is Outcome.IGNORED


def leaves(kind: type[Settings], prefix: str = "") -> list[str]:
    """Paths of all fields that a struct declares."""
    found = []
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.encode_name}"
        inner = [each for each in getattr(field.type, "__args__", ()) if isinstance(each, type)]
        structs = [each for each in inner if issubclass(each, Settings)]
        found += leaves(structs[0], f"{path}.") if structs else [path]
    return found


def test_the_example_has_every_field_that_there_is() -> None:
    data = yaml.safe_load((EXAMPLES / "every-field.yaml").read_text())
    given = {path for path, _ in set_fields(data)}
    missing = [path for path in leaves(KubeProxyConfiguration) if not any(each.startswith(path) for each in given)]
    assert missing == []


def test_every_field_of_the_ipvs_section_is_carried_over() -> None:
    text = (EXAMPLES / "every-field.yaml").read_text().replace("mode: iptables", "mode: ipvs")
    conversion = convert(*read_source(text, "test"))
    assert conversion.fields["ipvs"] == yaml.safe_load(text)["ipvs"]
    assert conversion.config.ipvs.exclude_cidrs == ("192.0.2.0/24",)
    assert conversion.config.ipvs.tcp_fin_timeout == 120.0


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables", "userspace"])
def test_every_field_has_a_fate_in_every_mode(mode: str) -> None:
    data = yaml.safe_load((EXAMPLES / "every-field.yaml").read_text())
    fields = {key: value for key, value in data.items() if key not in {"apiVersion", "kind"}}
    for path, value in set_fields(fields):
        fate = fate_of(path, value, Situation(mode, "ClusterCIDR"))
        assert fate.reason or fate.outcome is Outcome.CARRIED, path


@pytest.mark.parametrize("name", ["kubeadm", "kind", "rootless", "kubespray-ipvs", "minimal", "every-field"])
def test_what_is_written_is_a_configuration_of_ours(name: str) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    convert_file(str(EXAMPLES / f"{name}.yaml"), stdout=stdout, stderr=stderr)
    config = parse_settings(stdout.getvalue(), EnforcerConfiguration, KIND, source="converted")
    assert config == example(name).config
    lines = stderr.getvalue().splitlines()
    assert lines[0].split() == ["FIELD", "OUTCOME", "WHY"]
    assert len(lines) == len(example(name).rows) + 1
    column = lines[0].index("OUTCOME")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)


def test_a_config_map_may_come_in_a_list_as_json_from_standard_input() -> None:
    config_map = {"kind": "ConfigMap", "data": {"some.yaml": f"{HEAD}mode: nftables\n", "other": "x"}}
    document = json.dumps({"kind": "List", "apiVersion": "v1", "items": [{"kind": "Secret"}, config_map]})
    stdout = io.StringIO()
    convert_file("-", stdin=io.BytesIO(document.encode()), stdout=stdout, stderr=io.StringIO())
    assert "mode: nftables" in stdout.getvalue()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 documents of kind KubeProxyConfiguration"),
        ("kind: ConfigMap\ndata: {config.conf: nothing}", "has 0 documents"),
        (f"{HEAD}---\n{HEAD}", "has 2 documents"),
        ("kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1beta1", "apiVersion: expected"),
        (f"{HEAD}mode: a\nmode: b", "given twice"),
        ("a: [", "not valid YAML"),
        ("kind: ConfigMap\ndata:\n  c: |\n    kind: KubeProxyConfiguration\n    a: [", r"data\[c\].*not valid YAML"),
        ("kind: [List]", "has 0 documents"),
        ("kind: List\nitems: &a [{kind: List, items: *a}]", "has 0 documents"),
    ],
)
def test_a_source_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_source(text, "test")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent"):
        convert_file(str(tmp_path / "absent"))


def test_unknown_fields_are_all_named_with_their_paths() -> None:
    found = problems("modes: x\niptables: {masqAll: true}\nlogging: {options: {json: {a: 1}}}\nnftables: {bit: 1}")
    assert sorted(each.partition(":")[0] for each in found) == [
        "iptables.masqAll",
        "logging.options.json.a",
        "modes",
        "nftables.bit",
    ]
    assert "did you mean mode?" in next(each for each in found if each.startswith("modes"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("mode: kernelspace", "mode"),
        ("detectLocalMode: Guess", "detectLocalMode"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
        ("bindAddress: here", "bindAddress"),
        ("healthzBindAddress: 1.2.3.4:0", "healthzBindAddress"),
        ("metricsBindAddress: localhost:1", "metricsBindAddress"),
        ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", "clusterCIDR"),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", "nodePortAddresses"),
        ("nodePortAddresses: [10.0.0.0/8, x]", "nodePortAddresses[1]"),
        ("oomScoreAdj: 1001", "oomScoreAdj"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit"),
        ("iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", "iptables.minSyncPeriod"),
        ("iptables: {masqueradeAll: sometimes}", "iptables.masqueradeAll"),
        ("ipvs: {excludeCIDRs: [x]}", "ipvs.excludeCIDRs[0]"),
        ("ipvs: {tcpTimeout: soon}", "ipvs.tcpTimeout"),
        ("conntrack: {min: -1}", "conntrack.min"),
        ("featureGates: {A: maybe}", "featureGates.A"),
    ],
)
def test_wrong_values_are_named_by_kube_proxys_own_rules(text: str, path: str) -> None:
    assert [each.partition(":")[0] for each in problems(text)] == [path]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("mode: iptables\niptables: {minSyncPeriod: 0s}", {"nodePortAddresses": EVERYWHERE, "mode": "iptables"}),
        (
            "mode: userspace\nudpIdleTimeout: 1s\nportRange: 1-2\niptables: {syncPeriod: 40s, masqueradeAll: true}",
            {
                "nodePortAddresses": EVERYWHERE,
                "mode": "userspace",
                "userspace": {"udpIdleTimeout": "1s", "syncPeriod": "40s"},
            },
        ),
        ("mode: nftables\nnodePortAddresses: [primary]", {"nodePortAddresses": ["primary"], "mode": "nftables"}),
        (
            "mode: nftables\nbindAddress: '::'",
            {"metricsBindAddress": "[::1]:10249", "mode": "nftables"},
        ),
        (
            "mode: nftables\nlogging: {format: json, verbosity: 2}",
            {"mode": "nftables", "logging": {"format": "json", "level": "info"}},
        ),
        (
            "mode: nftables\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            {
                "mode": "nftables",
                "detectLocalMode": "BridgeInterface",
                "detectLocal": {"bridgeInterface": "cni0"},
            },
        ),
    ],
)
def test_single_fields(text: str, fields: Mapping[str, Any]) -> None:
    assert converted(text).fields == fields


def test_defaults_that_are_the_same_leave_no_trace_in_the_result() -> None:
    assert converted("mode: nftables").config == EnforcerConfiguration()


def test_the_table_has_no_trailing_space() -> None:
    assert all(line == line.rstrip() for line in table(example("minimal").rows))
