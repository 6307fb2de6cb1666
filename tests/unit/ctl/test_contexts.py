# SPDX-License-Identifier: Apache-2.0
"""Which cluster is meant: the file, its contexts, and what flags change in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman_chassis.errors import ConfigError
from pointsman_ctl.errors import UsageError
from pointsman_ctl.settings import DEFAULT_SERVERS, Context, load_context, with_security

NO_FLAGS = dict.fromkeys(("cert", "key", "ca", "server_name", "token_file"), "") | {"insecure": False}
HEAD = "apiVersion: config.pointsman.io/v1alpha1\nkind: CtlConfiguration\n"
TWO = (
    HEAD
    + """\
currentContext: b
contexts:
  - {name: a, servers: ["a:1"]}
  - name: b
    servers: ["b:1", "b:2"]
    security: {certFile: me.crt, keyFile: /abs/me.key, caFile: ca.crt}
"""
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ctl.yaml"
    path.write_text(TWO)
    return path


def test_the_current_context_is_used_and_its_paths_are_relative_to_the_file(file: Path) -> None:
    context = load_context(str(file), "")
    assert context.servers == ("b:1", "b:2")
    assert context.security.cert_file == str(file.parent / "me.crt")
    assert context.security.key_file == "/abs/me.key"
    assert load_context(str(file), "a").servers == ("a:1",)


def test_without_a_file_there_are_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_context("", "").servers == DEFAULT_SERVERS
    with pytest.raises(UsageError, match="there is no configuration at"):
        load_context("", "x")
    (tmp_path / "pointsman").mkdir()
    (tmp_path / "pointsman" / "ctl.yaml").write_text(TWO)
    assert load_context("", "").name == "b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO.replace("currentContext: b\n", ""), "no currentContext; there are: a, b"),
        (TWO.replace("currentContext: b", "currentContext: c"), "there is no context 'c'"),
        (TWO.replace("name: b", "name: a"), "'a' is there twice"),
        (TWO.replace("servers", "server"), "did you mean servers?"),
        (TWO.replace("certFile: me.crt, ", ""), "must be given together"),
        (HEAD.replace("Ctl", "Enforcer"), "kind: expected CtlConfiguration"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "ctl.yaml"
    path.write_text(text)
    with pytest.raises((ConfigError, UsageError), match=said.replace("?", r"\?")):
        load_context(str(path), "")


def test_flags_change_what_the_file_says_of_tls(file: Path) -> None:
    context = load_context(str(file), "")
    named = with_security(context, **(NO_FLAGS | {"server_name": "planner"}))
    assert (named.security.server_name, named.security.key_file) == ("planner", "/abs/me.key")
    plain = with_security(context, **(NO_FLAGS | {"insecure": True}))
    assert (plain.security.insecure, plain.security.cert_file) == (True, "")
    token = with_security(Context(), **(NO_FLAGS | {"token_file": "my.token", "ca": "ca"}))
    assert token.security.token_file.endswith("my.token")


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"insecure": True, "cert": "x"}, "--insecure excludes"), ({"cert": "x"}, "must be given together")],
)
def test_flags_that_contradict_each_other_are_refused(flags: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        with_security(Context(), **(NO_FLAGS | flags))  # type: ignore[arg-type] # a table of flags
