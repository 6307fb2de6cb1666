# SPDX-License-Identifier: Apache-2.0
"""The configuration file, kind CtlConfiguration, and what flags and the environment change in one of its contexts.

    apiVersion: config.pointsman.io/v1alpha1
    kind: CtlConfiguration
    currentContext: production
    contexts:
      - name: production
        servers: [10.0.0.5:7444, 10.0.0.6:7444]
        security: {certFile: me.crt, keyFile: me.key, caFile: ca.crt}

Relative paths are relative to the file. A flag wins over its variable of the environment, and that over the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import structs

from pointsman_chassis.settings import Settings, load_settings
from pointsman_chassis.tls import TransportSecurity
from pointsman_ctl.errors import UsageError

KIND: Final = "CtlConfiguration"
DEFAULT_SERVERS: Final = ("localhost:7444",)
DEFAULT_NAMESPACE: Final = "pointsman-system"
_PATHS: Final = ("cert_file", "key_file", "ca_file", "token_file")


class Context(Settings, frozen=True, kw_only=True):
    """One cluster, and who I am there."""

    name: str = ""
    """What `--context` and `currentContext` call it."""
    servers: tuple[str, ...] = DEFAULT_SERVERS
    """`host:port` of planners. The first that answers is asked; all answer alike."""
    security: TransportSecurity = TransportSecurity()
    """How planners are reached: TLS files, a token file, or `insecure: true` on loopback."""
    pages: tuple[str, ...] = ()
    """URLs of the planners' metricsBindAddress (`http://10.0.0.5:9444`), for `check` and `sysdump`. Without them
    kubectl is asked for the pages of the pods in `system_namespace`."""
    kubeconfig: str = ""
    """For kubectl; empty = as kubectl chooses."""
    kubectl_context: str = ""
    """For kubectl; empty = its current one."""
    system_namespace: str = DEFAULT_NAMESPACE
    """Where Pointsman's own pods are."""
    jaeger: str = ""
    """URL of Jaeger's user interface (`http://localhost:16686`), for `trace`."""


class CtlConfiguration(Settings, frozen=True, kw_only=True):
    """The file."""

    current_context: str = ""
    """The context in use when none is named; may be left out when there is only one."""
    contexts: tuple[Context, ...] = ()
    """The clusters."""

    def problems(self) -> Iterable[str]:
        """Names are needed once there is a choice, and each once."""
        names = [context.name for context in self.contexts]
        if len(names) > 1 and "" in names:
            yield "contexts: each needs a name when there are several"
        yield from (f"contexts: {name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1}))
        if self.current_context and self.current_context not in names:
            yield f"currentContext: there is no context {self.current_context!r}"


def default_path() -> Path:
    """`$XDG_CONFIG_HOME/pointsman/ctl.yaml`, usually below ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "pointsman" / "ctl.yaml"


def load_context(path: str, name: str) -> Context:
    """A context of the file; the defaults when no file is named and there is none in the default place.

    Raises:
        ConfigError: the file cannot be read or is wrong.
        UsageError: it has no such context, or several and none is chosen.
    """
    file = Path(path) if path else default_path()
    if not path and not file.exists():
        if name:
            raise UsageError(f"--context {name}: there is no configuration at {file}; name one with --config")
        return Context()
    config = load_settings(file, CtlConfiguration, KIND)
    wanted = name or config.current_context
    found = [context for context in config.contexts if context.name == wanted or not wanted]
    if len(found) != 1:
        names = ", ".join(context.name for context in config.contexts) or "none"
        what = f"no context {wanted!r}" if wanted else "no currentContext"
        raise UsageError(f"{file}: {what}; there are: {names}. Choose with --context")
    return _at_home(found[0], file.parent)


def _at_home(context: Context, directory: Path) -> Context:
    """The context with absolute paths."""
    files = {name: getattr(context.security, name) for name in _PATHS}
    absolute = {name: str(directory / Path(path).expanduser()) for name, path in files.items() if path}
    kubeconfig = str(directory / Path(context.kubeconfig).expanduser()) if context.kubeconfig else ""
    return structs.replace(context, security=structs.replace(context.security, **absolute), kubeconfig=kubeconfig)


def with_security(
    context: Context, *, cert: str, key: str, ca: str, server_name: str, token_file: str, insecure: bool
) -> Context:
    """The context with what flags said of TLS; `insecure` takes the place of all that the file said.

    Raises:
        UsageError: only half of what TLS needs is there.
    """
    if insecure and (cert or key or ca or token_file):
        raise UsageError("--insecure excludes --tls-cert, --tls-key, --tls-ca and --token-file")
    said = {"cert_file": cert, "key_file": key, "ca_file": ca, "server_name": server_name, "token_file": token_file}
    changes: dict[str, object] = {field: value for field, value in said.items() if value}
    if not insecure and not changes:
        return context
    base = TransportSecurity() if insecure or context.security.insecure else context.security
    try:
        security = structs.replace(base, **changes, insecure=insecure)
    except ValueError as error:
        raise UsageError(
            f"{error} (flags --tls-cert, --tls-key, --tls-ca, --token-file; or `security` in the configuration)"
        ) from error
    return structs.replace(context, security=security)
