# SPDX-License-Identifier: Apache-2.0
"""Reading API objects as they are on the wire: nested dicts. Pure.

The lab keeps objects in their wire form, because it writes most of them back and must not lose what it does not know.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]

ZONE_LABEL = "topology.kubernetes.io/zone"
HOSTNAME_LABEL = "kubernetes.io/hostname"


def key(obj: Object) -> str:
    """`namespace/name`, or `name` for kinds without a namespace."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def namespace(obj: Object) -> str:
    """The namespace, empty when the kind has none."""
    return str(obj["metadata"].get("namespace") or "")


def name(obj: Object) -> str:
    """The name."""
    return str(obj["metadata"]["name"])


def uid(obj: Object) -> str:
    """The uid, empty before the API server has given one."""
    return str(obj["metadata"].get("uid") or "")


def labels(obj: Object) -> Mapping[str, str]:
    """The labels, never null."""
    return obj["metadata"].get("labels") or {}


def annotations(obj: Object) -> Mapping[str, str]:
    """The annotations, never null."""
    return obj["metadata"].get("annotations") or {}


def spec(obj: Object) -> Object:
    """The spec, never null."""
    return obj.get("spec") or {}


def status(obj: Object) -> Object:
    """The status, never null."""
    return obj.get("status") or {}


def is_terminating(obj: Object) -> bool:
    """Whether deletion was asked for."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def selects(selector: Mapping[str, str], candidate: Mapping[str, str]) -> bool:
    """Whether a map selector (a Service's) matches; an empty one matches nothing."""
    return bool(selector) and all(candidate.get(label) == value for label, value in selector.items())


def is_controlled_by(obj: Object, owner_uid: str) -> bool:
    """Whether `owner_uid` is the controller of the object."""
    references = obj["metadata"].get("ownerReferences") or ()
    return any(reference.get("controller") and reference.get("uid") == owner_uid for reference in references)


def owner_reference(owner: Object, *, api_version: str, kind: str) -> Object:
    """The reference by which a controller owns what it made."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of that type, if the object has it."""
    for entry in status(obj).get("conditions") or ():
        if entry.get("type") == kind:
            return dict(entry)
    return None


def is_pod_ready(pod: Object) -> bool:
    """Whether the Ready condition is True; deletion does not change it."""
    ready = condition(pod, "Ready")
    return ready is not None and ready.get("status") == "True"


def is_pod_finished(pod: Object) -> bool:
    """Whether the pod will never serve again."""
    return status(pod).get("phase") in {"Succeeded", "Failed"}


def pod_addresses(pod: Object) -> tuple[str, ...]:
    """All addresses of a pod, the primary one first."""
    entries = status(pod).get("podIPs") or ()
    addresses = tuple(str(entry["ip"]) for entry in entries if entry.get("ip"))
    primary = status(pod).get("podIP")
    return addresses or ((str(primary),) if primary else ())


def container_ports(pod: Object) -> tuple[Object, ...]:
    """The declared ports of all containers, in order."""
    return tuple(port for container in spec(pod).get("containers") or () for port in container.get("ports") or ())


def seconds_annotation(obj: Object, annotation: str, default: float) -> float:
    """A number of seconds from an annotation; what is no number counts as absent."""
    try:
        return max(float(annotations(obj).get(annotation, default)), 0.0)
    except ValueError:
        return default


def by_name(objects: Iterable[Object]) -> list[Object]:
    """The objects ordered by key, so that decisions do not depend on the order they arrived in."""
    return sorted(objects, key=key)
