# SPDX-License-Identifier: Apache-2.0
"""What may run in a cluster, and with which powers: asserted on the rendered manifests."""

import yaml

from support.manifests import RENDERED, ROOT, Manifest, config_files, of_kind, pod_of, workloads

COMPONENTS = {"watcher", "planner", "enforcer", "redis"}
READ = ["get", "list", "watch"]


def test_every_overlay_is_rendered_by_these_tests() -> None:
    overlays = {f"overlays/{path.parent.name}" for path in ROOT.glob("deploy/overlays/*/kustomization.yaml")}
    assert set(RENDERED) == {"base", *overlays}


def test_every_folder_has_a_readme() -> None:
    folders = {path.parent for path in (ROOT / "deploy").rglob("kustomization.yaml")}
    assert [folder for folder in folders if not (folder / "README.md").is_file()] == []


def test_all_components_are_there(manifests: tuple[Manifest, ...]) -> None:
    assert set(workloads(manifests)) == COMPONENTS
    assert workloads(manifests)["enforcer"]["kind"] == "DaemonSet"


def test_the_watcher_may_read_four_kinds_the_planner_review_tokens_and_nobody_anything_else(
    manifests: tuple[Manifest, ...],
) -> None:
    roles = {role["metadata"]["name"]: role["rules"] for role in of_kind(manifests, "ClusterRole", "Role")}
    assert roles.pop("pointsman-planner") == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    assert list(roles) == ["pointsman-watcher"]
    assert roles["pointsman-watcher"] == [
        {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": READ},
        {"apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": READ},
    ]


def test_only_watcher_and_planner_are_bound_and_hold_a_token_for_the_api_server(
    manifests: tuple[Manifest, ...],
) -> None:
    bindings = of_kind(manifests, "ClusterRoleBinding", "RoleBinding")
    assert {binding["roleRef"]["name"]: binding["subjects"] for binding in bindings} == {
        name: [{"kind": "ServiceAccount", "name": name, "namespace": "pointsman-system"}]
        for name in ("pointsman-watcher", "pointsman-planner")
    }
    for component, workload in workloads(manifests).items():
        mounts_token = pod_of(workload).get("automountServiceAccountToken", True)
        assert mounts_token is (component in {"watcher", "planner"}), component


def test_an_enforcer_has_a_token_for_planners_alone_and_it_is_the_one_that_they_take(
    manifests: tuple[Manifest, ...],
) -> None:
    pod = pod_of(workloads(manifests)["enforcer"])
    [identity] = [volume["projected"]["sources"] for volume in pod["volumes"] if "projected" in volume]
    [token] = [source["serviceAccountToken"] for source in identity if "serviceAccountToken" in source]
    files = {name: yaml.safe_load(text) for name, text in config_files(manifests).items()}
    tokens = files["planner.yaml"]["access"]["tokens"]
    assert token["audience"] == tokens["audience"]
    assert tokens["enforcerServiceAccounts"] == [f"pointsman-system/{pod['serviceAccountName']}"]
    [mount] = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "identity"]
    assert files["enforcer.yaml"]["security"]["tokenFile"] == f"{mount}/{token['path']}"


def test_no_container_has_more_power_than_it_needs(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        pod = pod_of(workload)
        assert not pod.keys() & {"hostPID", "hostIPC", "initContainers"}, component
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        for container in pod["containers"]:
            context = container["securityContext"]
            assert not context.get("privileged"), component
            assert context["allowPrivilegeEscalation"] is False, component
            assert context["readOnlyRootFilesystem"] is True, component
            expected = {"drop": ["ALL"], "add": ["NET_ADMIN"]} if component == "enforcer" else {"drop": ["ALL"]}
            assert context["capabilities"] == expected, component
            assert component == "enforcer" or pod["securityContext"]["runAsNonRoot"] is True, component


def test_the_host_is_touched_only_where_it_must_be(manifests: tuple[Manifest, ...]) -> None:
    host_paths = {
        component: [volume["hostPath"]["path"] for volume in pod_of(workload)["volumes"] if "hostPath" in volume]
        for component, workload in workloads(manifests).items()
    }
    assert host_paths == {"enforcer": ["/var/lib/pointsman"], "watcher": [], "planner": [], "redis": []}
    on_host_network = {name for name, workload in workloads(manifests).items() if pod_of(workload).get("hostNetwork")}
    assert on_host_network == {"watcher", "planner", "enforcer"}


def test_what_needs_no_host_network_lives_in_a_restricted_namespace(manifests: tuple[Manifest, ...]) -> None:
    levels = {
        manifest["metadata"]["name"]: manifest["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for manifest in of_kind(manifests, "Namespace")
    }
    for component, workload in workloads(manifests).items():
        expected = "privileged" if pod_of(workload).get("hostNetwork") else "restricted"
        assert levels[workload["metadata"]["namespace"]] == expected, component


def test_images_have_a_tag_that_is_not_latest(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        for container in pod_of(workload)["containers"]:
            _, separator, tag = container["image"].rpartition(":")
            assert separator, component
            assert tag not in {"", "latest"}, component


def test_every_container_is_probed_and_limited(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        for container in pod_of(workload)["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), component
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, component
            assert "memory" in container["resources"]["limits"], component


def test_readiness_is_in_sync_and_not_merely_alive(manifests: tuple[Manifest, ...]) -> None:
    containers = {name: pod_of(workload)["containers"][0] for name, workload in workloads(manifests).items()}
    for component in ("watcher", "planner"):
        assert containers[component]["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert containers["enforcer"]["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "healthz"}
    assert {"name": "healthz", "containerPort": 10256} in containers["enforcer"]["ports"]


def test_enforcers_run_everywhere_and_are_replaced_a_few_at_a_time(manifests: tuple[Manifest, ...]) -> None:
    enforcer = workloads(manifests)["enforcer"]
    assert pod_of(enforcer)["tolerations"] == [{"operator": "Exists"}]
    assert pod_of(enforcer)["priorityClassName"] == "system-node-critical"
    assert enforcer["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}


def test_nothing_on_the_way_to_the_kernel_depends_on_a_cluster_ip(manifests: tuple[Manifest, ...]) -> None:
    pods = {name: pod_of(workload) for name, workload in workloads(manifests).items()}
    assert pods["enforcer"]["dnsPolicy"] == "Default"
    for component in ("watcher", "planner"):
        environment = pods[component]["containers"][0]["env"]
        [api_host] = [item for item in environment if item["name"] == "KUBERNETES_SERVICE_HOST"]
        assert api_host["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    headless = {
        manifest["metadata"]["name"]
        for manifest in of_kind(manifests, "Service")
        if manifest["spec"].get("clusterIP") == "None"
    }
    assert headless == {"pointsman-planner"}
