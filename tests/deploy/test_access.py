# SPDX-License-Identifier: Apache-2.0
"""What each part may ask of the API server, and by what it is known to the others."""

from support.deployed_settings import deployed_settings
from support.manifests import Manifest, of_kind, pod_of, workloads

READ = ["get", "list", "watch"]
WATCHER = [
    {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": READ},
    {"apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": READ},
]
TOKEN_REVIEWS = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
ACCESS_REVIEWS = [{"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}]
EVENTS = [
    {"apiGroups": [""], "resources": ["services"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]


def test_rights_are_exactly_those_that_the_configuration_needs(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    access = deployed_settings(rendered, "planner")["access"]
    expected = {"pointsman-watcher": WATCHER, "pointsman-planner": TOKEN_REVIEWS}
    expected |= {"pointsman-planner-access-review": ACCESS_REVIEWS} if access["accessReview"] else {}
    expected |= {"pointsman-planner-events": EVENTS} if access["events"] else {}
    assert {role["metadata"]["name"]: role["rules"] for role in of_kind(manifests, "ClusterRole", "Role")} == expected


def test_nothing_is_deleted_patched_or_updated_and_no_right_is_a_wildcard(manifests: tuple[Manifest, ...]) -> None:
    for role in of_kind(manifests, "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert set(rule["verbs"]) <= {*READ, "create"}
            assert "*" not in [*rule["apiGroups"], *rule["resources"]]
            assert set(rule["resources"]).isdisjoint({"secrets", "pods", "configmaps"})


def test_each_role_is_bound_to_the_one_account_it_is_for(manifests: tuple[Manifest, ...]) -> None:
    roles = {role["metadata"]["name"] for role in of_kind(manifests, "ClusterRole", "Role")}
    bindings = list(of_kind(manifests, "ClusterRoleBinding", "RoleBinding"))
    assert {binding["roleRef"]["name"] for binding in bindings} == roles
    for binding in bindings:
        account = "-".join(binding["roleRef"]["name"].split("-")[:2])
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "pointsman-system"}]


def test_only_who_is_bound_holds_a_token_for_the_api_server(manifests: tuple[Manifest, ...]) -> None:
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    for component, workload in workloads(manifests).items():
        pod = pod_of(workload)
        assert pod["serviceAccountName"] in accounts, component
        assert pod.get("automountServiceAccountToken", True) is (component in {"watcher", "planner"}), component


def test_an_enforcer_has_a_token_for_planners_alone_and_it_is_the_one_that_they_take(
    rendered: str, manifests: tuple[Manifest, ...]
) -> None:
    pod = pod_of(workloads(manifests)["enforcer"])
    [identity] = [volume["projected"]["sources"] for volume in pod["volumes"] if "projected" in volume]
    [token] = [source["serviceAccountToken"] for source in identity if "serviceAccountToken" in source]
    tokens = deployed_settings(rendered, "planner")["access"]["tokens"]
    assert token["audience"] == tokens["audience"]
    assert tokens["isAdvertised"] is True
    assert tokens["enforcerServiceAccounts"] == [f"pointsman-system/{pod['serviceAccountName']}"]
    [mount] = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "identity"]
    files = {
        item["path"]
        for source in identity
        for item in source.get("configMap", source.get("secret", {})).get("items", ())
    } | {token["path"]}
    security = deployed_settings(rendered, "enforcer")["security"]
    assert {security["tokenFile"], security["caFile"]} == {f"{mount}/{name}" for name in files}


def test_certificates_have_the_names_that_the_other_side_expects(
    rendered: str, manifests: tuple[Manifest, ...]
) -> None:
    watcher, planner = (deployed_settings(rendered, service) for service in ("watcher", "planner"))
    assert watcher["planners"] == ["pointsman-planner"]
    assert planner["security"]["serverName"] == "pointsman-watcher"
    assert deployed_settings(rendered, "enforcer")["security"]["serverName"] == "pointsman-planner"
    for service, settings in (("watcher", watcher), ("planner", planner)):
        pod = pod_of(workloads(manifests)[service])
        [secret] = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert secret == f"pointsman-{service}-tls"
        [mount] = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "tls"]
        files = {settings["security"][name] for name in ("certFile", "keyFile", "caFile")}
        assert files == {f"{mount}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}


def test_cert_manager_is_asked_for_exactly_what_is_mounted(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    certificates = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "Certificate")}
    if rendered not in {"components/mtls", "overlays/production"}:
        assert not certificates
        return
    mounted = {
        source.get("secretName") or source["name"]
        for workload in workloads(manifests).values()
        for volume in pod_of(workload).get("volumes", ())
        for source in [
            volume.get("secret"),
            *(each.get("secret") for each in volume.get("projected", {}).get("sources", ())),
        ]
        if source
    }
    issued = {spec["secretName"] for spec in certificates.values() if not spec.get("isCA")}
    assert mounted == issued, "and the authority's own key is mounted nowhere"
    assert certificates["pointsman-watcher"]["dnsNames"] == ["pointsman-watcher"]
    assert certificates["pointsman-planner"]["dnsNames"] == ["pointsman-planner"]
    # What every node's kubelet can read must be good for nothing.
    assert certificates["pointsman-trust"]["usages"] == ["server auth"]
    assert certificates["pointsman-trust"]["dnsNames"][0].endswith(".invalid")
