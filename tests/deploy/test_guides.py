# SPDX-License-Identifier: Apache-2.0
"""The guides under docs/operating: what they tell people to type is there, and what they print to copy works."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from support.deployed_settings import settings_in
from support.manifests import ROOT, kustomize, of_kind, require_kubectl, workloads

GUIDES = sorted(
    ROOT / "docs/operating" / f"{name}.md"
    for name in ("install", "upgrade", "rollback", "uninstall", "migrate-from-kube-proxy")
)
READMES = sorted((ROOT / "deploy").rglob("README.md"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[str]:
    """Indented blocks, without their indentation."""
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", path.read_text(), flags=re.MULTILINE)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found if block.strip()]


def commands(path: Path, program: str) -> list[list[str]]:
    """Arguments of every call of a program in a guide, comments left out."""
    lines = [line for block in blocks(path) for line in block.splitlines()]
    called = [match[1] for line in lines if (match := re.search(rf"(?:^|\| ){program}(?: (.*))?$", line))]
    return [shlex.split(re.split(r"[|&]| # | {4}#", tail or "")[0]) for tail in called]


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_commands_have_the_options_that_they_are_given(guide: Path) -> None:
    for program, call in (
        (name, call) for name in ("pointsmanctl", "pointsman-enforcer") for call in commands(guide, name)
    ):
        words = [word for word in call if re.fullmatch(r"[a-z][a-z-]+", word)][:1] if program == "pointsmanctl" else []
        shown = subprocess.run(
            [ROOT / ".venv/bin" / program, *words, "--help"], capture_output=True, text=True, check=False, timeout=60
        )
        assert shown.returncode == 0, (program, words)
        options = [word.partition("=")[0] for word in call if word.startswith("--")]
        assert [option for option in options if option not in shown.stdout] == [], (program, call)


def test_the_overlay_of_the_installation_guide_renders_and_is_accepted(tmp_path: Path) -> None:
    require_kubectl()
    text = "\n\n".join(blocks(ROOT / "docs/operating/install.md"))
    files = re.findall(r"^# overlays/mine/(\S+yaml).*\n((?:(?!^# overlays/|^kubectl ).*\n)+)", text, flags=re.MULTILINE)
    assert [name for name, _ in files] == ["kustomization.yaml", "enforcer.yaml"]
    for name, content in files:
        (tmp_path / name).write_text(content.replace("../../", f"{relative(tmp_path)}/"))
    manifests = kustomize(tmp_path)
    assert workloads(manifests)["planner"]["spec"]["replicas"] == 1
    assert settings_in(manifests, "enforcer")["plannerAddresses"] == ["dns:control-plane.example:7445"]
    assert list(of_kind(manifests, "Certificate"))


def relative(folder: Path) -> str:
    """deploy/ as kustomize wants it: no absolute paths."""
    return "/".join([".."] * len(folder.resolve().parts[1:])) + str(ROOT / "deploy")


def test_the_patches_of_the_migration_guide_apply(tmp_path: Path) -> None:
    require_kubectl()
    guide = ROOT / "docs/operating/migrate-from-kube-proxy.md"
    [patch] = [block for block in blocks(guide) if "kind: DaemonSet" in block]
    (tmp_path / "patch.yaml").write_text(patch)
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{relative(tmp_path)}/base"],
        "patches": [{"path": "patch.yaml"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(document))
    pod = workloads(kustomize(tmp_path))["enforcer"]["spec"]["template"]["spec"]
    [term] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "pointsman.io/proxy", "operator": "In", "values": ["true"]}]
    kube_proxys = re.search(r"patch daemonset kube-proxy -p '(.*?)'", guide.read_text(), flags=re.DOTALL)
    assert kube_proxys is not None
    yaml.safe_load(kube_proxys[1])


@pytest.mark.parametrize("guide", [*GUIDES, *READMES], ids=name_of)
def test_links_lead_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide.read_text())
    broken = [link for link in links if "://" not in link and not (guide.parent / link).resolve().exists()]
    assert broken == []


@pytest.mark.parametrize("guide", [*GUIDES, *READMES], ids=name_of)
def test_files_that_are_named_are_there(guide: Path) -> None:
    named = re.findall(r"(?<![\w./])((?:deploy|tests|docs|services)/[\w./-]+\w)", guide.read_text())
    assert [name for name in named if not name.startswith("deploy/overlays/mine") and not (ROOT / name).exists()] == []
