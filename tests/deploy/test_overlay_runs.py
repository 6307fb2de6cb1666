# SPDX-License-Identifier: Apache-2.0
"""The rendered overlay, run: each service in its image's environment, with its user, capabilities, volumes and probes.

What the manifests say is thus enough, in a root that cannot be written and with no power but those listed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.deployed_cluster_main import SERVICE
from support.deployed_world import deployed_node
from support.manifests import SERVICES, compose, require_kubectl

pytestmark = pytest.mark.root
COMPLAINT = re.compile(r'Traceback.*|.*"level": "(?:error|critical)".*')


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_node_is_programmed_and_every_probe_answers(
    mode: str, environments: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_kubectl()
    components = [f"components/mode-{mode}"] if mode != "nftables" else []
    with deployed_node(tmp_path_factory.mktemp("node"), compose("overlays/kind", *components)) as node:
        for service in SERVICES:
            node.start(service, environments[service])
        tool = ("nft", "list", "ruleset") if mode == "nftables" else ("iptables-save",)
        node.wait(lambda: SERVICE in node.namespace.run(*tool), "the Service is in the kernel")
        node.wait(node.is_ready, "all are ready")
        for service in SERVICES:
            assert node.probe(service, "livenessProbe") == node.probe(service, "startupProbe") == 200, service
        assert {path.name for path in node.state.iterdir()} >= {"plan.log", "planners.json"}
        for service in reversed(SERVICES):
            assert node.stop(service) == 0, service
        assert SERVICE in node.namespace.run(*tool), "what is programmed stays"
        assert COMPLAINT.findall(node.output()) == []
