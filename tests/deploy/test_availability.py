# SPDX-License-Identifier: Apache-2.0
"""Where pods are put, how they are probed, limited and replaced, and what a cold boot needs."""

from support.deployed_settings import deployed_settings
from support.manifests import Manifest, container_of, of_kind, pod_of, workloads

KIB = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
MEASURED_BYTES = {"watcher": 102_000_000, "planner": 159_000_000, "enforcer": 72_200_000}
"""Resident with 10,000 services of ten endpoints (`make bench`)."""


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * KIB[quantity[-2:]]


def test_every_container_is_probed_and_limited(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        container = container_of(workload)
        assert {"readinessProbe", "livenessProbe"} <= container.keys(), component
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, component
        # A limit on CPU would hold changes up; memory that leaks must end somewhere.
        assert container["resources"]["limits"].keys() == {"memory"}, component


def test_memory_is_requested_as_measured_and_limited_well_above(manifests: tuple[Manifest, ...]) -> None:
    for service, measured in MEASURED_BYTES.items():
        resources = container_of(workloads(manifests)[service])["resources"]
        requested, limit = (in_bytes(resources[each]["memory"]) for each in ("requests", "limits"))
        assert measured <= requested <= 2 * measured, service
        assert limit >= 4 * measured, service


def test_probes_name_ports_of_the_container(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        container = container_of(workload)
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for kind in ("httpGet", "tcpSocket"):
                if kind in container.get(probe, {}):
                    assert container[probe][kind]["port"] in ports, (component, probe)


def test_readiness_is_in_sync_and_liveness_asks_for_nobody_else(manifests: tuple[Manifest, ...]) -> None:
    expected = {
        "watcher": ("/readyz", "/livez"),
        "planner": ("/readyz", "/healthz"),
        "enforcer": ("/healthz", "/livez"),
    }
    for service, (ready, live) in expected.items():
        container = container_of(workloads(manifests)[service])
        assert container["readinessProbe"]["httpGet"]["path"] == ready
        assert container["livenessProbe"]["httpGet"]["path"] == live
        assert container["startupProbe"]["httpGet"]["path"] == live


def test_enforcers_run_everywhere_and_are_replaced_a_few_at_a_time(manifests: tuple[Manifest, ...]) -> None:
    enforcer = workloads(manifests)["enforcer"]
    assert pod_of(enforcer)["tolerations"] == [{"operator": "Exists"}]
    assert pod_of(enforcer)["priorityClassName"] == "system-node-critical"
    assert enforcer["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}


def test_the_control_plane_is_critical_and_may_run_where_nothing_else_is_ready(
    manifests: tuple[Manifest, ...],
) -> None:
    for service in ("watcher", "planner"):
        pod = pod_of(workloads(manifests)[service])
        assert pod["priorityClassName"] == "system-cluster-critical"
        tolerated = {each["key"] for each in pod["tolerations"]}
        assert tolerated == {"node-role.kubernetes.io/control-plane", "node.kubernetes.io/not-ready"}


def test_what_has_a_port_of_the_host_is_replaced_without_surge(manifests: tuple[Manifest, ...]) -> None:
    for component, workload in workloads(manifests).items():
        if pod_of(workload).get("hostNetwork") and workload["kind"] == "Deployment":
            assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, component


def test_no_two_containers_want_the_same_port_of_a_node(manifests: tuple[Manifest, ...]) -> None:
    ports = [
        port["containerPort"]
        for workload in workloads(manifests).values()
        if pod_of(workload).get("hostNetwork")
        for port in container_of(workload)["ports"]
    ]
    assert len(ports) == len(set(ports))


def test_what_has_several_replicas_has_a_disruption_budget_and_is_spread(manifests: tuple[Manifest, ...]) -> None:
    budgets = {
        each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: each["spec"]
        for each in of_kind(manifests, "PodDisruptionBudget")
    }
    for component, workload in workloads(manifests).items():
        if workload["spec"].get("replicas", 1) > 1:
            assert budgets[component]["maxUnavailable"] == 1, component
            assert pod_of(workload)["topologySpreadConstraints"], component


def test_the_ha_component_spreads_three_planners_and_two_watchers_over_nodes(
    rendered: str, manifests: tuple[Manifest, ...]
) -> None:
    replicas = {name: each["spec"]["replicas"] for name, each in workloads(manifests).items() if name != "enforcer"}
    if rendered not in {"components/ha", "overlays/production"}:
        assert replicas["watcher"] == replicas["planner"] <= 2
        return
    assert (replicas["watcher"], replicas["planner"]) == (2, 3)
    for service in ("watcher", "planner"):
        [term] = pod_of(workloads(manifests)[service])["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/name"] == f"pointsman-{service}"


def test_selectors_select_the_pods_they_are_meant_for(manifests: tuple[Manifest, ...]) -> None:
    labels = {
        name: (workload["metadata"]["namespace"], workload["spec"]["template"]["metadata"]["labels"])
        for name, workload in workloads(manifests).items()
    }
    for name, workload in workloads(manifests).items():
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels[name][1].items()
    selecting = of_kind(manifests, "Service", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy")
    for manifest in selecting:
        spec = manifest["spec"]
        selector = spec["podSelector"] if "podSelector" in spec else spec["selector"]
        wanted = selector.get("matchLabels", {}) if manifest["kind"] != "Service" else selector
        found = [
            name
            for name, (namespace, pod) in labels.items()
            if namespace == manifest["metadata"]["namespace"] and wanted.items() <= pod.items()
        ]
        own = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        is_of_one = own in labels
        assert not is_of_one or found == [own], manifest["metadata"]["name"]


def test_every_object_says_that_it_is_ours_and_what_it_belongs_to(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        labels = manifest["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "pointsman", manifest["metadata"]["name"]
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))


def test_nothing_on_the_way_to_the_kernel_depends_on_a_cluster_ip(manifests: tuple[Manifest, ...]) -> None:
    pods = {name: pod_of(workload) for name, workload in workloads(manifests).items()}
    assert pods["enforcer"]["dnsPolicy"] == "Default"
    for component in ("watcher", "planner"):
        environment = pods[component]["containers"][0]["env"]
        [api_host] = [item for item in environment if item["name"] == "KUBERNETES_SERVICE_HOST"]
        assert api_host["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    services = {each["metadata"]["name"]: each["spec"].get("clusterIP") for each in of_kind(manifests, "Service")}
    assert {name for name, address in services.items() if address == "None"} == {
        "pointsman-planner",
        "pointsman-watcher",
    }


def test_a_planner_is_beside_a_watcher_which_it_reaches_without_any_name(
    rendered: str, manifests: tuple[Manifest, ...]
) -> None:
    affinity = pod_of(workloads(manifests)["planner"])["affinity"]["podAffinity"]
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or [
        each["podAffinityTerm"] for each in affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    ]
    [term] = terms
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": "pointsman-watcher"}
    assert deployed_settings(rendered, "planner")["watcherAddresses"][0].startswith("127.0.0.1:")


def test_a_planner_has_the_time_to_give_its_nodes_away(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    drain = deployed_settings(rendered, "planner")["drainPeriod"]
    assert drain == "10s"
    assert pod_of(workloads(manifests)["planner"])["terminationGracePeriodSeconds"] >= 2 * 10
