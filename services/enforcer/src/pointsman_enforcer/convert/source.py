# SPDX-License-Identifier: Apache-2.0
"""Finds the KubeProxyConfiguration in what an operator has at hand.

That may be the file itself, kubeadm's file of several documents, or the ConfigMap `kube-proxy` (also inside a List), as
`kubectl -n kube-system get configmap kube-proxy -o yaml` prints it, with the file under `config.conf` or any other key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import decode_settings, parse_yaml
from pointsman_enforcer.convert.kube_proxy import API_VERSION, KIND, KubeProxyConfiguration


def read_source(content: str | bytes, name: str) -> tuple[KubeProxyConfiguration, dict[str, Any]]:
    """The configuration, and the same as plain data without apiVersion and kind.

    Raises:
        ConfigError: there is none or more than one, or it is wrong; every unknown field is named with its path.
    """
    found = list(_candidates(parse_yaml(content, source=name), name))
    if len(found) != 1:
        raise ConfigError(
            f"{name} has {len(found)} documents of kind {KIND}; expected one, by itself or inside a ConfigMap"
        )
    where, document = found[0]
    config = decode_settings(document, KubeProxyConfiguration, KIND, source=where, api_version=API_VERSION)
    return config, {key: value for key, value in document.items() if key not in {"apiVersion", "kind"}}


def _candidates(documents: list[Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    looked_at = set()
    for document in _objects(documents):
        # An alias repeats an object at the cost of a few characters, and a ConfigMap is parsed each time.
        if id(document) in looked_at:
            continue
        looked_at.add(id(document))
        if document.get("kind") == KIND:
            yield name, document
        elif document.get("kind") == "ConfigMap":
            yield from _inside(document, name)


def _objects(documents: list[Any]) -> Iterator[dict[str, Any]]:
    """The objects, those of a List one by one. A List inside a List is none that Kubernetes knows."""
    for document in documents:
        if not isinstance(document, dict):
            continue
        items = document.get("items")
        if document.get("kind") in ("List", "ConfigMapList") and isinstance(items, list):
            yield from (item for item in items if isinstance(item, dict))
        else:
            yield document


def _inside(config_map: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    data = config_map.get("data")
    if not isinstance(data, dict):
        return
    for text, key in {text: key for key, text in data.items() if isinstance(text, str) and KIND in text}.items():
        where = f"{name} (data[{key}])"
        for document in parse_yaml(text, source=where):
            if isinstance(document, dict) and document.get("kind") == KIND:
                yield where, document
