# SPDX-License-Identifier: Apache-2.0
"""The command `pointsman-enforcer` where it needs no node: configurations written and converted, mistakes named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pointsman_chassis.settings import load_settings
from pointsman_enforcer.settings import KIND, EnforcerConfiguration

HEAD = f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\n"
EXAMPLES = Path(__file__).parents[1] / "unit" / "enforcer" / "kube_proxy_configurations"
WRONG_CONFIGURATION = 2


def enforcer(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pointsman_enforcer", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def test_write_config_to_writes_what_is_in_effect_and_it_is_read_back_the_same(tmp_path: Path) -> None:
    given, written, again = tmp_path / "given.yaml", tmp_path / "written.yaml", tmp_path / "again.yaml"
    given.write_text(
        f"{HEAD}clusterCIDR: 10.0.0.0/8\nnftables: {{minSyncPeriod: 250ms}}\nhostnameOverride: of-the-file\n"
    )
    assert enforcer("--config", given, "--hostname-override", "node-7", "--write-config-to", written).returncode == 0
    config = load_settings(written, EnforcerConfiguration, KIND)
    assert (config.cluster_cidr, config.nftables.min_sync_period) == ("10.0.0.0/8", 0.25)
    assert config.hostname_override == "node-7", "a flag is part of what is in effect"
    assert "tcpEstablishedTimeout: 24h" in written.read_text(), "and so are defaults"
    assert enforcer("--config", written, "--write-config-to", again).returncode == 0
    assert again.read_text() == written.read_text()


def test_write_config_to_says_where_it_cannot_write(tmp_path: Path) -> None:
    done = enforcer("--write-config-to", tmp_path / "absent" / "config.yaml")
    assert done.returncode == WRONG_CONFIGURATION
    assert "absent/config.yaml: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_file_is_refused_with_every_path_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{HEAD}nftables: {{masqeradeBit: 1}}\ncolour: red\nnodePortAddresses: [x]\n")
    done = enforcer("--config", file)
    assert done.returncode == WRONG_CONFIGURATION
    for words in ("nftables.masqeradeBit: unknown field; did you mean masqueradeBit?", "colour: unknown field"):
        assert words in done.stderr
    assert "nodePortAddresses[0]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["kubeadm", "kind", "minimal", "kubespray-ipvs"])
def test_convert_config_prints_a_file_that_this_command_takes_and_the_account_beside_it(
    name: str, tmp_path: Path
) -> None:
    done = enforcer("--convert-config", EXAMPLES / f"{name}.yaml")
    assert done.returncode == 0
    assert done.stderr.startswith("FIELD")
    converted, written = tmp_path / "converted.yaml", tmp_path / "written.yaml"
    converted.write_text(done.stdout)
    assert enforcer("--config", converted, "--write-config-to", written).returncode == 0


def test_convert_config_names_what_it_cannot_convert() -> None:
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    done = enforcer("--convert-config", "-", stdin=f"{head}mode: ipvs\nipvs: {{schedular: rr}}\n")
    assert (done.returncode, done.stdout) == (WRONG_CONFIGURATION, "")
    assert "ipvs.schedular: unknown field; did you mean scheduler?" in done.stderr
    assert "Traceback" not in done.stderr
