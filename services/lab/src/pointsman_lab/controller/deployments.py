# SPDX-License-Identifier: Apache-2.0
"""What a Deployment asks for next: pods to make, pods to delete, and its status. Pure.

One decision looks at what exists now and takes the steps the rollout limits allow; the next event brings the next
decision. Pods belong to the Deployment directly and carry `pod-template-hash`; there is no ReplicaSet object between.
"""

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pointsman_lab.controller.objects import (
    Object,
    is_controlled_by,
    is_pod_finished,
    is_pod_ready,
    is_terminating,
    name,
    namespace,
    owner_reference,
    spec,
    status,
    uid,
)

HASH_LABEL = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, as in Kubernetes: no accidental words
_SUFFIX_LENGTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """The next step: whole pod objects to create, names of pods to delete, the status to report."""

    create: tuple[Object, ...]
    delete: tuple[str, ...]
    status: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rollout:
    replicas: int
    surge: int
    unavailable: int
    current: tuple[Object, ...]
    outdated: tuple[Object, ...]
    recreate: bool


def template_hash(template: Object) -> str:
    """Names a pod template: equal templates, equal hashes."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    digits = []
    for _ in range(10):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def random_suffix(pick: Callable[[str], str]) -> str:
    """Five characters for a generated name; `pick` chooses one of a string."""
    return "".join(pick(_ALPHABET) for _ in range(_SUFFIX_LENGTH))


def plan_deployment(
    deployment: Object, pods: Sequence[Object], suffix: Callable[[], str], *, now: str
) -> DeploymentPlan:
    """The next step of a Deployment given the pods of its namespace (others than its own are ignored).

    Args:
        deployment: the Deployment object.
        pods: pods of the namespace, in any order.
        suffix: makes a fresh random part for a pod name.
        now: the instant for conditions, RFC 3339.
    """
    rollout = _rollout(deployment, pods)
    create = _to_create(rollout)
    delete = _to_delete(rollout)
    return DeploymentPlan(
        create=tuple(_new_pod(deployment, suffix()) for _ in range(create)),
        delete=tuple(name(pod) for pod in delete),
        status=_status(deployment, rollout, now),
    )


def _rollout(deployment: Object, pods: Sequence[Object]) -> _Rollout:
    wanted = template_hash(spec(deployment)["template"])
    alive = [
        pod
        for pod in sorted(pods, key=name)
        if is_controlled_by(pod, uid(deployment)) and not is_terminating(pod) and not is_pod_finished(pod)
    ]
    replicas = spec(deployment).get("replicas")
    replicas = 1 if replicas is None else int(replicas)
    strategy = spec(deployment).get("strategy") or {}
    limits = strategy.get("rollingUpdate") or {}
    surge = _limit(limits.get("maxSurge", 1), replicas, round_up=True)
    unavailable = _limit(limits.get("maxUnavailable", 0), replicas, round_up=False)
    return _Rollout(
        replicas=replicas,
        surge=surge,
        # Both zero would never move; Kubernetes then allows one unavailable pod.
        unavailable=unavailable if surge or unavailable else 1,
        current=tuple(pod for pod in alive if pod["metadata"].get("labels", {}).get(HASH_LABEL) == wanted),
        outdated=tuple(pod for pod in alive if pod["metadata"].get("labels", {}).get(HASH_LABEL) != wanted),
        recreate=strategy.get("type") == "Recreate",
    )


def _limit(value: int | str, replicas: int, *, round_up: bool) -> int:
    """An IntOrString of the rollout: a count, or a percentage of the replicas."""
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * replicas / 100
        return math.ceil(share) if round_up else math.floor(share)
    return int(value)


def _to_create(rollout: _Rollout) -> int:
    missing = rollout.replicas - len(rollout.current)
    if rollout.recreate:
        return 0 if rollout.outdated else max(missing, 0)
    room = rollout.replicas + rollout.surge - len(rollout.current) - len(rollout.outdated)
    return max(min(missing, room), 0)


def _to_delete(rollout: _Rollout) -> list[Object]:
    surplus = len(rollout.current) - rollout.replicas
    delete = _worst_first(rollout.current)[:surplus] if surplus > 0 else []
    if rollout.recreate or rollout.replicas == 0:
        return delete + list(rollout.outdated)
    ready = sum(map(is_pod_ready, rollout.current + rollout.outdated)) - sum(map(is_pod_ready, delete))
    spare = ready - (rollout.replicas - rollout.unavailable)
    for pod in _worst_first(rollout.outdated):
        if is_pod_ready(pod):
            if spare <= 0:
                break
            spare -= 1
        delete.append(pod)
    return delete


def _worst_first(pods: Sequence[Object]) -> list[Object]:
    """Which pods go first: without a node, then not ready, then from the fullest node, then the youngest."""
    oldest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))
    seen: Counter[str] = Counter()
    ranked = []
    for pod in oldest_first:
        node = str(spec(pod).get("nodeName") or "")
        # The third pod of a node goes before the second of any: what stays is spread.
        seen[node] += 1
        ranked.append(((bool(node), is_pod_ready(pod), -seen[node]), pod))
    ranked.reverse()
    return [pod for _, pod in sorted(ranked, key=lambda entry: entry[0])]


def _new_pod(deployment: Object, suffix: str) -> Object:
    template = copy.deepcopy(spec(deployment)["template"])
    digest = template_hash(spec(deployment)["template"])
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name(deployment)}-{digest}-{suffix}",
            "generateName": f"{name(deployment)}-{digest}-",
            "namespace": namespace(deployment),
            "labels": {**(metadata.get("labels") or {}), HASH_LABEL: digest},
            "annotations": dict(metadata.get("annotations") or {}),
            "ownerReferences": [owner_reference(deployment, api_version="apps/v1", kind="Deployment")],
        },
        "spec": template.get("spec") or {},
    }


def _status(deployment: Object, rollout: _Rollout, now: str) -> Object:
    total = len(rollout.current) + len(rollout.outdated)
    ready = sum(map(is_pod_ready, rollout.current + rollout.outdated))
    result: Object = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        "replicas": total,
        "updatedReplicas": len(rollout.current),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(rollout.replicas - ready, 0),
    }
    complete = not rollout.outdated and ready == len(rollout.current) == rollout.replicas
    wanted = [
        (
            "Available",
            ready >= rollout.replicas - rollout.unavailable,
            "MinimumReplicasAvailable",
            "MinimumReplicasUnavailable",
        ),
        ("Progressing", True, "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated", ""),
    ]
    old = {entry["type"]: entry for entry in status(deployment).get("conditions") or ()}
    result["conditions"] = [
        _condition(old.get(kind), kind, now, holds=holds, reason=reason if holds else otherwise)
        for kind, holds, reason, otherwise in wanted
    ]
    return result


def _condition(old: Object | None, kind: str, now: str, *, holds: bool, reason: str) -> Object:
    value = "True" if holds else "False"
    if old and old.get("status") == value and old.get("reason") == reason:
        return dict(old)
    transition = old["lastTransitionTime"] if old and old.get("status") == value else now
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": reason,
        "lastUpdateTime": now,
        "lastTransitionTime": transition,
    }
