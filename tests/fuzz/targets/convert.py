# SPDX-License-Identifier: Apache-2.0
"""`--convert-config`: whatever is in the file, a configuration with an account of every field, or what is wrong."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json
from fuzz.targets.configuration import check_message
from hypothesis import strategies as st

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import parse_settings
from pointsman_enforcer.convert.command import convert_file
from pointsman_enforcer.convert.conversion import set_fields
from pointsman_enforcer.convert.kube_proxy import KIND as KUBE_PROXY
from pointsman_enforcer.convert.source import read_source
from pointsman_enforcer.settings import KIND, EnforcerConfiguration

_EXAMPLES = Path(__file__).parents[2] / "unit" / "enforcer" / "kube_proxy_configurations"
_FILES = tuple(path.read_bytes() for path in sorted(_EXAMPLES.glob("*.yaml")))
_HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
_NESTED = "abcdefgh"
_LISTS = (
    "a: &a {kind: List, items: []}\n"
    + "".join(
        f"{name}: &{name} {{kind: List, items: [{', '.join([f'*{below}'] * 9)}]}}\n"
        for below, name in pairwise(_NESTED)
    )
    + "kind: List\nitems: [*h]\n"
)
_MERGES = (
    "a: &a {x: 1}\n"
    + "".join(f"{name}: &{name} {{<<: [{', '.join([f'*{below}'] * 9)}]}}\n" for below, name in pairwise(_NESTED))
    + "featureGates: {<<: *h}\n"
)
_CONFIG_MAPS = (
    "x: &x |\n  kind: KubeProxyConfiguration\n"
    + "  # and nothing else\n" * 300
    + "m: &m {kind: ConfigMap, data: {a: *x}}\n"
    "kind: List\nitems: [" + ", ".join(["*m"] * 3000) + "]\n"
)
_ODD = (
    "kind: List\nitems: &a [{kind: List, items: *a}]\n",
    "&a {kind: List, items: [*a]}\n",
    "kind: ConfigMap\ndata: [x]\n",
    "kind: ConfigMap\ndata: {1: 'kind: KubeProxyConfiguration', 'KubeProxyConfiguration': 7}\n",
    f"kind: ConfigMap\ndata:\n  1: |\n    {_HEAD.replace(chr(10), chr(10) + '    ')}mode: nftables\n",
    f"{_HEAD}featureGates: {{1: true, null: false, [a]: true}}\n",
    f"{_HEAD}featureGates: {{'a.b': true, '': true}}\n",
    f"{_HEAD}logging: {{vmodule: [&a {{x: *a}}]}}\n",
    f"{_HEAD}logging: {{verbosity: 0x{'f' * 5000}}}\n",
    f"{_HEAD}clientConnection: {{qps: .nan, burst: .inf}}\n",
    f"{_HEAD}conntrack: {{tcpEstablishedTimeout: {'9' * 400}h}}\n",
    f"{_HEAD}nftables: {{syncPeriod: {'9' * 40}h, minSyncPeriod: 0.{'0' * 400}1ns}}\n",
    f"{_HEAD}hostnameOverride: 2001-01-01\n",
    f"{_HEAD}bindAddress: ::ffff:1.2.3.4\nhealthzBindAddress: '[::1]'\nmetricsBindAddress: '::1'\n",
    f"{_HEAD}oomScoreAdj: true\n",
    f"{_HEAD}{_MERGES}",
    _LISTS,
    _CONFIG_MAPS,
)


def _documents() -> list[Any]:
    texts = [document for content in _FILES for document in yaml.safe_load_all(content)]
    inner = [yaml.safe_load(each["data"]["config.conf"]) for each in texts if each["kind"] == "ConfigMap"]
    return [*texts, *inner, {"kind": "List", "items": texts}]


def _dump(document: Any) -> bytes:
    return yaml.safe_dump(document).encode()


_bytes = mutated_bytes(st.sampled_from((*_FILES, *(text.encode() for text in _ODD))))
_odd = st.sampled_from(_ODD).map(str.encode)
_structures = st.sampled_from(_documents()).flatmap(lambda found: mutated_json(found, changes_max=6)).map(_dump)
_inside = (
    st.sampled_from([each for each in _documents() if each["kind"] == KUBE_PROXY])
    .flatmap(mutated_json)
    .map(lambda inner: _dump({"kind": "ConfigMap", "data": {"config.conf": _dump(inner).decode()}}))
)


def check(content: bytes) -> None:
    """ConfigError and nothing written, or a valid configuration, and a row for each field that the source sets."""
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        convert_file("-", stdin=io.BytesIO(content), stdout=stdout, stderr=stderr)
    except ConfigError as error:
        check_message(str(error), content)
        assert not stdout.getvalue() + stderr.getvalue()
        return
    parse_settings(stdout.getvalue(), EnforcerConfiguration, KIND, source="converted")
    _, data = read_source(content, "fuzz")
    told = [line.split("  ")[0] for line in stderr.getvalue().splitlines()[1:]]
    wanted = [path for path, _ in set_fields(data)]
    assert [path for path in told if path in set(wanted)] == wanted


TARGETS = (
    Target(name="converter: files as bytes", values=st.one_of(_bytes, _odd), check=check, examples=60),
    Target(name="converter: structures", values=st.one_of(_structures, _inside), check=check, examples=100),
)
