# SPDX-License-Identifier: Apache-2.0
"""The rendered overlay, run: each service in its image's environment, with its user, capabilities, volumes and probes.

What the manifests say is thus enough, in a root that cannot be written and with no power but those listed. At the end
the uninstall component takes everything away again.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from support.deployed_cluster_main import SERVICE
from support.deployed_world import DeployedNode, deployed_node
from support.kube_proxy_rules.cluster import cluster
from support.kube_proxy_rules.iptables_mode import iptables_rules
from support.manifests import CLEANER, SERVICES, compose, require_kubectl, workloads

pytestmark = pytest.mark.root
OURS = re.compile(rf"(?i)pointsman|{re.escape(SERVICE)}")
EVERYTHING = (
    ("nft", "list", "ruleset"),
    ("iptables-legacy-save",),
    ("ip6tables-legacy-save",),
    ("ipset", "save"),
)
CLOSE_WAIT = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"
"""Of kube-proxy's sysctls, set by default to 3600 where it can be written; the kernel's own is 60."""
COMPLAINT = re.compile(r'Traceback.*|.*"level": "(?:error|critical)".*')


def uninstall(node: DeployedNode, components: list[str], environment: Path, tool: tuple[str, ...]) -> None:
    """The component does what it says: nothing of ours is left in the kernel or on the disk, and all else is."""
    node.namespace.run("nft", "add", "table", "ip", "somebody")
    cleaner = workloads(compose("overlays/kind", *components, CLEANER))["enforcer"]
    node.start("enforcer", environment, workload=cleaner)
    node.wait(lambda: OURS.search("".join(node.namespace.run(*each) for each in EVERYTHING)) is None, "it is gone")
    node.wait(lambda: not list(node.state.glob("plan*")), "the plan on disk is gone")
    assert "table ip somebody" in node.namespace.run("nft", "list", "ruleset")
    node.stop("enforcer")


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_node_is_programmed_and_every_probe_answers(
    mode: str, environments: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_kubectl()
    components = ["components/mode-iptables", "components/sysctls"] if mode == "iptables" else []
    tool = {"nftables": ("nft", "list", "ruleset"), "iptables": ("iptables-legacy-save",)}[mode]
    with deployed_node(tmp_path_factory.mktemp("node"), compose("overlays/kind", *components)) as node:
        if mode == "iptables":
            # A node of kube-proxy's, whose variant of iptables is the legacy one, so ours is too.
            node.namespace.run("iptables-legacy-restore", stdin=iptables_rules(cluster(Family.IPV4)))
        for service in SERVICES:
            node.start(service, environments[service])
        node.wait(lambda: SERVICE in node.namespace.run(*tool), "the Service is in the kernel")
        node.wait(node.is_ready, "all are ready")
        for service in SERVICES:
            assert node.probe(service, "livenessProbe") == node.probe(service, "startupProbe") == 200, service
        node.wait(lambda: "KUBE-SVC" not in node.namespace.run("iptables-legacy-save"), "kube-proxy's rules are gone")
        assert node.namespace.run("sysctl", "-n", CLOSE_WAIT).strip() == ("3600" if mode == "iptables" else "60")
        assert {path.name for path in node.state.iterdir()} >= {"plan.log", "planners.json"}
        for service in reversed(SERVICES):
            assert node.stop(service) == 0, service
        assert SERVICE in node.namespace.run(*tool), "what is programmed stays"
        uninstall(node, components, environments["enforcer"], tool)
        assert COMPLAINT.findall(node.output()) == []
