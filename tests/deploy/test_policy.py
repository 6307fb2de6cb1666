# SPDX-License-Identifier: Apache-2.0
"""What may run in a cluster, and with which powers: asserted on the rendered manifests."""

import re

from support.deployed_settings import deployed_settings
from support.manifests import (
    CLEANER,
    COMPONENTS,
    DEPLOY,
    OVERLAYS,
    RENDERED,
    SERVICES,
    Manifest,
    compose,
    container_of,
    of_kind,
    pod_of,
    render,
    require_kubectl,
    workloads,
)

XTABLES = "components/xtables"
XTABLES_MODES = {"iptables", "ipvs"}
"""Modes that run iptables, which opens raw sockets and, in its legacy form, a lock file that a node shares."""
ON_THE_HOSTS_NETWORK = set(SERVICES)


def test_every_overlay_and_component_is_rendered_by_these_tests() -> None:
    folders = {str(path.parent.relative_to(DEPLOY)) for path in DEPLOY.glob("*/*/kustomization.yaml")}
    assert {each for each in folders if not each.startswith("base/")} == {
        *OVERLAYS,
        *COMPONENTS,
        CLEANER,
    }


def test_every_folder_has_a_readme() -> None:
    folders = {path.parent for path in DEPLOY.rglob("kustomization.yaml")}
    assert [folder for folder in folders if not (folder / "README.md").is_file()] == []


def test_the_readme_lists_every_overlay_and_component() -> None:
    text = (DEPLOY / "README.md").read_text()
    assert [name for name in (*RENDERED, CLEANER) if f"`{name}/`" not in text] == []


def test_all_services_are_there(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    others = {"components/external-redis": set(), "components/jaeger": {"redis", "jaeger"}}
    others["overlays/dev"] = {"redis", "jaeger"}
    assert set(workloads(manifests)) == {*SERVICES, *others.get(rendered, {"redis"})}
    assert workloads(manifests)["enforcer"]["kind"] == "DaemonSet"


def test_no_container_has_more_power_than_it_needs(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        pod, container = pod_of(workload), container_of(workload)
        assert not pod.keys() & {"hostPID", "hostIPC", "initContainers", "shareProcessNamespace"}, component
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        context = container["securityContext"]
        assert not context.get("privileged"), component
        assert context["allowPrivilegeEscalation"] is False, component
        assert context["readOnlyRootFilesystem"] is True, component
        assert context["capabilities"] == expected_capabilities(rendered, component), component
        assert component == "enforcer" or pod["securityContext"]["runAsNonRoot"] is True, component


def expected_capabilities(rendered: str, component: str) -> Manifest:
    if component != "enforcer":
        return {"drop": ["ALL"]}
    runs_iptables = rendered == XTABLES or deployed_settings(rendered, "enforcer")["mode"] in XTABLES_MODES
    return {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] if runs_iptables else ["NET_ADMIN"]}


def test_the_host_is_touched_only_where_it_must_be(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    host_paths = {
        component: {
            volume["hostPath"]["path"] for volume in pod_of(workload).get("volumes", ()) if "hostPath" in volume
        }
        for component, workload in workloads(manifests).items()
    }
    enforcer = host_paths.pop("enforcer")
    mode = deployed_settings(rendered, "enforcer")["mode"]
    runs_iptables = rendered == XTABLES or mode in XTABLES_MODES
    sets_sysctls = rendered == "components/sysctls" or mode == "ipvs"
    expected = {"/var/lib/pointsman": True, "/run/xtables.lock": runs_iptables, "/proc/sys/net": sets_sysctls}
    assert enforcer == {path for path, is_there in expected.items() if is_there}
    assert set().union(*host_paths.values()) == set()
    on_host_network = {name for name, workload in workloads(manifests).items() if pod_of(workload).get("hostNetwork")}
    assert on_host_network == ON_THE_HOSTS_NETWORK


def test_namespaces_enforce_the_strictest_level_that_fits(manifests: tuple[Manifest, ...]) -> None:
    labels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in of_kind(manifests, "Namespace")}
    expected = {"pointsman-system": "privileged", "pointsman-redis": "restricted"}
    for name, found in labels.items():
        assert found["pod-security.kubernetes.io/enforce"] == expected[name]
        assert found["pod-security.kubernetes.io/enforce-version"] == "latest"
    for workload in workloads(manifests).values():
        namespace = workload["metadata"]["namespace"]
        assert labels[namespace]["pod-security.kubernetes.io/enforce"] in {"privileged", "restricted"}
        assert not (namespace == "pointsman-redis" and pod_of(workload).get("hostNetwork"))


def test_images_have_a_full_version_or_are_built_here(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        name, separator, tag = container_of(workload)["image"].rpartition(":")
        assert separator, component
        is_ours = name.rpartition("/")[2] == f"pointsman-{component}" and component in SERVICES
        assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z]+)?", tag) or (is_ours and tag == "dev"), component


def test_no_secret_is_written_down(manifests: tuple[Manifest, ...]) -> None:
    assert list(of_kind(manifests, "Secret")) == []
    for workload in workloads(manifests).values():
        for variable in container_of(workload).get("env", ()):
            assert not re.search(r"PASSWORD|TOKEN|SECRET|KEY", variable["name"]), variable["name"]


def test_no_container_uses_a_volume_that_is_not_there_or_leaves_one_unused(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        mounted = [mount["name"] for mount in container_of(workload).get("volumeMounts", ())]
        assert sorted(mounted) == sorted(each["name"] for each in pod_of(workload).get("volumes", ())), component


def test_the_cleaner_has_the_powers_and_the_configuration_of_the_enforcer_and_nothing_more() -> None:
    require_kubectl()
    for mode in ("components/monitoring", "components/mode-iptables"):
        enforcer = workloads(compose("base", mode))["enforcer"]
        cleaner = workloads(compose("base", mode, CLEANER))["enforcer"]
        assert cleaner["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "100%"}
        assert pod_of(cleaner)["volumes"] == pod_of(enforcer)["volumes"]
        container = container_of(cleaner)
        changed = {key for key in container_of(enforcer) if container.get(key) != container_of(enforcer)[key]}
        assert changed == {"command", "args", "ports", "readinessProbe", "livenessProbe", "startupProbe"}


def test_every_dashboard_and_every_file_of_rules_is_deployed() -> None:
    require_kubectl()
    folder = DEPLOY / "components/monitoring"
    manifests = render("components/monitoring")
    [dashboards] = [
        each for each in of_kind(manifests, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]
    ]
    assert set(dashboards["data"]) == {path.name for path in folder.glob("dashboards/*.json")}
    assert len(list(of_kind(manifests, "PrometheusRule"))) == len(list(folder.glob("rules/*.yaml")))
