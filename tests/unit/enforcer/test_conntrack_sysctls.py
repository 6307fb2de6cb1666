# SPDX-License-Identifier: Apache-2.0
"""The connection table's sysctls: kube-proxy's figures, files written only when they differ, refusals survived."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import load_settings
from pointsman_enforcer.dataplane.conntrack.sysctls import ConntrackSysctls, apply, settings_of
from pointsman_enforcer.settings import KIND, ConntrackSettings, EnforcerConfiguration


@pytest.mark.parametrize(
    ("per_core", "minimum", "cores", "expected"),
    [
        (32768, 131072, 2, 131072),
        (32768, 131072, 8, 262144),
        (32768, 131072, 128, 1_048_576),
        (32768, 2_000_000, 128, 2_000_000),
        (0, 131072, 8, 0),
        (1, 0, 4, 4),
    ],
)
def test_the_maximum_scales_with_the_cores_between_its_bounds(
    per_core: int, minimum: int, cores: int, expected: int
) -> None:
    assert ConntrackSysctls(maximum_per_core=per_core, minimum=minimum).maximum(cores) == expected


def test_defaults_are_kube_proxys() -> None:
    assert EnforcerConfiguration().conntrack.sysctls() == ConntrackSysctls(
        maximum_per_core=32768, minimum=131072, tcp_established_timeout=86400, tcp_close_wait_timeout=3600
    )


def test_null_and_zero_leave_everything_alone() -> None:
    nothing = ConntrackSettings(max_per_core=None, tcp_established_timeout=None, tcp_close_wait_timeout=None)
    assert list(settings_of(nothing.sysctls(), 64)) == []


def test_a_file_in_kube_proxys_words_is_read(tmp_path: Path) -> None:
    file = tmp_path / "enforcer.yaml"
    file.write_text(
        f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\nconntrack:\n  maxPerCore: 0\n  min: 1\n"
        "  tcpEstablishedTimeout: 1h\n  tcpCloseWaitTimeout: null\n  tcpBeLiberal: true\n"
        "  udpTimeout: 30s\n  udpStreamTimeout: 2m\n"
    )
    found = load_settings(file, EnforcerConfiguration, KIND).conntrack.sysctls()
    assert found == ConntrackSysctls(
        minimum=1, tcp_established_timeout=3600, tcp_be_liberal=True, udp_timeout=30, udp_stream_timeout=120
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [("maxPerCore: -1", "maxPerCore"), ("min: 4294967296", "min"), ("udpTimout: 3s", "udpTimout")],
)
def test_a_wrong_section_is_refused_with_its_path(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "enforcer.yaml"
    file.write_text(f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\nconntrack:\n  {text}\n")
    with pytest.raises(ConfigError, match=rf"(?s)conntrack.*{problem}"):
        load_settings(file, EnforcerConfiguration, KIND)


class Machine:
    """Files that stand for /proc/sys/net/netfilter and the module's parameter."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, value in {
            "nf_conntrack_max": 1000,
            "hashsize": 250,
            "nf_conntrack_tcp_timeout_established": 432000,
            "nf_conntrack_tcp_timeout_close_wait": 60,
            "nf_conntrack_tcp_be_liberal": 0,
            "nf_conntrack_udp_timeout": 30,
            "nf_conntrack_udp_timeout_stream": 120,
        }.items():
            (directory / name).write_text(f"{value}\n")

    def apply(self, wanted: ConntrackSysctls) -> int:
        return apply(wanted, sysctls=self.directory, hash_size=self.directory / "hashsize")

    def values(self) -> dict[str, int]:
        return {path.name.removeprefix("nf_conntrack_"): int(path.read_text()) for path in self.directory.iterdir()}


def test_everything_asked_for_is_written(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    wanted = ConntrackSysctls(
        maximum_per_core=1,
        minimum=4000,
        tcp_established_timeout=86400,
        tcp_close_wait_timeout=3600,
        tcp_be_liberal=True,
        udp_timeout=31,
        udp_stream_timeout=121,
    )
    maximum = wanted.maximum(os.cpu_count() or 1)
    with capture_logs() as logs:
        assert machine.apply(wanted) == 0
    assert machine.values() == {
        "max": maximum,
        "hashsize": maximum // 4,
        "tcp_timeout_established": 86400,
        "tcp_timeout_close_wait": 3600,
        "tcp_be_liberal": 1,
        "udp_timeout": 31,
        "udp_timeout_stream": 121,
    }
    assert len(logs) == 7
    with capture_logs() as logs:
        assert machine.apply(wanted) == 0
    assert logs == [], "a second start finds everything in place"


def test_the_table_is_never_made_smaller(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.apply(ConntrackSysctls(maximum_per_core=1, minimum=10)) == 0
    assert machine.values()["max"] == 1000
    assert machine.values()["hashsize"] == 250


def test_sysctls_that_cannot_be_written_are_said_in_one_line_and_the_others_are_set(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_tcp_be_liberal"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    with capture_logs() as logs:
        assert machine.apply(ConntrackSysctls(tcp_be_liberal=True, udp_timeout=40, udp_stream_timeout=200)) == 2
    [refusal] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert list(refusal["refused"]) == ["conntrack.tcpBeLiberal", "conntrack.udpTimeout"]
    assert "Is a directory; is None, wanted 40" in refusal["refused"]["conntrack.udpTimeout"]
    assert "set these fields to 0" in refusal["advice"]
    assert (tmp_path / "nf_conntrack_udp_timeout_stream").read_text() == "200\n"


def test_the_section_round_trips_as_data() -> None:
    data = msgspec.to_builtins(ConntrackSettings(), builtin_types=(), enc_hook=str)
    assert set(data) == {
        "maxPerCore",
        "min",
        "tcpEstablishedTimeout",
        "tcpCloseWaitTimeout",
        "tcpBeLiberal",
        "udpTimeout",
        "udpStreamTimeout",
    }
