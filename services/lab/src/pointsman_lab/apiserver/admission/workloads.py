# SPDX-License-Identifier: Apache-2.0
"""Pods and the workloads that make them: the defaults clients rely on, and the checks people trip over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.admission.rules import PORT_RANGE_WORDS, is_port

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.errors import Cause

_GRACE_SECONDS: Final = 30
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")


def default_pod_spec(spec: Json) -> None:
    """Fill in the defaults of a pod spec, in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", _GRACE_SECONDS)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        _default_container(container)


def _default_container(container: Json) -> None:
    image = str(container.get("image") or "")
    latest = ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "Always" if latest and "@" not in image else "IfNotPresent")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for name in _PROBES:
        probe = container.get(name)
        if probe:
            for field, value in (
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ):
                probe.setdefault(field, value)
            if "httpGet" in probe:
                probe["httpGet"].setdefault("scheme", "HTTP")
                probe["httpGet"].setdefault("path", "/")


def pod_spec_causes(spec: Json, field: str) -> list[Cause]:
    """Give what is wrong with a pod spec at a field path."""
    containers = spec.get("containers") or []
    causes = [] if containers else [errors.required(f"{field}.containers")]
    names: set[str] = set()
    for index, container in enumerate(containers):
        at = f"{field}.containers[{index}]"
        name = container.get("name") or ""
        if not name:
            causes.append(errors.required(f"{at}.name"))
        elif name in names:
            causes.append(errors.duplicate(f"{at}.name", name))
        names.add(name)
        if not container.get("image"):
            causes.append(errors.required(f"{at}.image"))
        causes += [
            errors.invalid_value(f"{at}.ports[{n}].containerPort", port.get("containerPort"), PORT_RANGE_WORDS)
            for n, port in enumerate(container.get("ports") or [])
            if not is_port(port.get("containerPort"))
        ]
    return causes


class PodRules:
    """The rules of Pods: a new one is pending, a stored one keeps its containers and its node."""

    def on_create(self, body: Json) -> list[Cause]:
        """Default and check; the status starts at Pending."""
        spec = body["spec"] = body.get("spec") or {}
        default_pod_spec(spec)
        body["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return pod_spec_causes(spec, "spec")

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """Default and check; the node of a pod never changes."""
        spec = body["spec"] = body.get("spec") or {}
        default_pod_spec(spec)
        causes = pod_spec_causes(spec, "spec")
        was, now = before["spec"].get("nodeName"), spec.get("nodeName")
        if was and now != was:
            causes.append(
                errors.forbidden_field(
                    "spec", "pod updates may not change fields other than `spec.containers[*].image`"
                )
            )
        return causes


class WorkloadRules:
    """The rules of Deployments, ReplicaSets, StatefulSets and DaemonSets.

    Args:
        defaults: the spec fields this kind starts with.
    """

    def __init__(self, defaults: Json) -> None:
        self._defaults = defaults

    def on_create(self, body: Json) -> list[Cause]:
        """Default and check; a new workload has an empty status."""
        body["status"] = {}
        return self._admit(body)

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """Default and check; the selector never changes."""
        causes = self._admit(body)
        if body["spec"].get("selector") != before["spec"].get("selector"):
            causes.append(
                errors.invalid_value("spec.selector", str(body["spec"].get("selector")), "field is immutable")
            )
        return causes

    def _admit(self, body: Json) -> list[Cause]:
        spec = body["spec"] = body.get("spec") or {}
        for field, value in self._defaults.items():
            spec.setdefault(field, value.copy() if isinstance(value, dict) else value)
        _default_rolling_update(spec)
        template = spec["template"] = spec.get("template") or {}
        template["metadata"] = template.get("metadata") or {}
        template["spec"] = template.get("spec") or {}
        default_pod_spec(template["spec"])
        causes = pod_spec_causes(template["spec"], "spec.template.spec")
        replicas = spec.get("replicas")
        if replicas is not None and (not isinstance(replicas, int) or replicas < 0):
            causes.append(errors.invalid_value("spec.replicas", replicas, "must be greater than or equal to 0"))
        return causes + _selector_causes(spec)


def _default_rolling_update(spec: Json) -> None:
    strategy = spec.get("strategy")
    if isinstance(strategy, dict) and strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy["rollingUpdate"] = dict(strategy.get("rollingUpdate") or {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")


def _selector_causes(spec: Json) -> list[Cause]:
    selector = spec.get("selector") or {}
    wanted = selector.get("matchLabels") or {}
    if not wanted and not selector.get("matchExpressions"):
        return [errors.required("spec.selector")]
    labels = spec["template"]["metadata"].get("labels") or {}
    if any(labels.get(name) != value for name, value in wanted.items()):
        why = "`selector` does not match template `labels`"
        return [errors.invalid_value("spec.template.metadata.labels", str(labels), why)]
    return []


DEPLOYMENT_DEFAULTS: Final = {
    "replicas": 1,
    "strategy": {},
    "revisionHistoryLimit": 10,
    "progressDeadlineSeconds": 600,
}
REPLICASET_DEFAULTS: Final = {"replicas": 1}
STATEFULSET_DEFAULTS: Final = {
    "replicas": 1,
    "serviceName": "",
    "podManagementPolicy": "OrderedReady",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    "revisionHistoryLimit": 10,
}
DAEMONSET_DEFAULTS: Final = {
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
    "revisionHistoryLimit": 10,
}
