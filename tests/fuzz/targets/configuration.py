# SPDX-License-Identifier: Apache-2.0
"""Configuration files of the three services: settings, or a ConfigError that says what is wrong."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import yaml
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json
from hypothesis import strategies as st

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import API_VERSION, Settings, dump_settings, parse_settings
from pointsman_enforcer.settings import KIND as ENFORCER
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_planner.settings import KIND as PLANNER
from pointsman_planner.settings import PlannerSettings
from pointsman_watcher.settings import KIND as WATCHER
from pointsman_watcher.settings import WatcherSettings

_MESSAGE_CHARACTERS_MAX = 100  # for each character of the file, with some to spare
_KINDS: tuple[tuple[type[Settings], str], ...] = (
    (EnforcerConfiguration, ENFORCER),
    (PlannerSettings, PLANNER),
    (WatcherSettings, WATCHER),
)
_LEVELS = "abcdefgh"
_ALIASES = (
    "a: &a [x, x]\n"
    + "".join(f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in pairwise(_LEVELS))
    + "logging: *h\nmode: *h\napiVersion: *h\n"
)
_MERGES = (
    "a: &a {x: 1}\n"
    + "".join(f"{name}: &{name} {{<<: [{', '.join([f'*{below}'] * 9)}]}}\n" for below, name in pairwise(_LEVELS))
    + "security: {<<: *h}\n"
)
_ODD_LINES = (
    "apiVersion: 2001-13-45\n",
    "kind: !!timestamp x\n",
    "logging: !!int ''\n",
    "security: !!bool maybe\n",
    "mode: 0b_\n",
    "mode: .inf\n",
    "logging: 0x" + "f" * 9000 + "\n",
    "? [a]\n: b\n",
    "1: 2\n",
    "null: 1\n",
    "security: &a {insecure: *a}\n",
    "<<: [{mode: x}, 3]\n",
    "nodePortAddresses: !!python/object:os.system {}\n",
    "nodePortAddresses: !!set {a}\n",
    "--- {}\n--- {}\n",
    "%YAML 9.9\n---\n",
    "clusterCIDR: '" + "1," * 3000 + "'\n",
    "security: " + "[" * 2000 + "\n",
    _ALIASES,
    _MERGES,
)


def _default(settings_type: type[Settings], kind: str) -> Settings:
    return parse_settings(f"apiVersion: {API_VERSION}\nkind: {kind}\n", settings_type, kind, source="defaults")


def _document(settings_type: type[Settings], kind: str) -> str:
    return dump_settings(_default(settings_type, kind), kind)


_cases = st.sampled_from(_KINDS)
_texts = _cases.flatmap(
    lambda case: st.tuples(
        st.just(case),
        mutated_bytes(
            st.tuples(st.just(_document(*case)), st.lists(st.sampled_from(_ODD_LINES), max_size=2)).map(
                lambda parts: (parts[0] + "".join(parts[1])).encode()
            )
        ),
    )
)
_odd = st.tuples(
    _cases, st.lists(st.sampled_from(_ODD_LINES), min_size=1, max_size=3).map(lambda lines: "".join(lines).encode())
)
_documents = _cases.flatmap(
    lambda case: st.tuples(
        st.just(case),
        mutated_json(yaml.safe_load(_document(*case))).map(lambda found: yaml.safe_dump(found).encode()),
    )
)


def check_message(text: str, content: bytes) -> None:
    """There is one, and it is in proportion to the file."""
    assert 0 < len(text) < _MESSAGE_CHARACTERS_MAX * (len(content) + 100)


def check(value: tuple[tuple[type[Settings], str], bytes]) -> None:
    """ConfigError only; what is accepted is written and read back as it was."""
    (settings_type, kind), content = value
    try:
        settings: Any = parse_settings(content, settings_type, kind, source="fuzz")
    except ConfigError as error:
        check_message(str(error), content)
        return
    assert parse_settings(dump_settings(settings, kind), settings_type, kind, source="again") == settings


TARGETS = (
    Target(name="configuration: files as bytes", values=st.one_of(_texts, _odd), check=check, examples=60),
    Target(name="configuration: documents", values=_documents, check=check, examples=120),
)
