# SPDX-License-Identifier: Apache-2.0
"""Takes secrets out of what is about to leave the cluster: texts by their looks, objects by their fields.

Rather too much than too little: a value that is taken out can be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

REDACTED: Final = "REDACTED"
_WORDS: Final = "password|passwd|passphrase|secret|token|authorization|api[-_]?key|credential|private[-_]?key|key-data"
_KEY: Final = rf"[\w.-]*(?:{_WORDS})[\w.-]*"
_HARMLESS: Final = r"(?!\w*(?:file|path|name|namespace|ref|mount|audience|reviews?|accounts?|seconds|for)\b)"
_PATTERNS: Final = (
    # A PEM block with a private key, also with its line ends escaped in JSON.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # A JSON web token.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REDACTED),
    # The user and password of a URL.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # A bearer token or basic credentials in a header.
    (re.compile(r"\b(bearer|basic)\s+[\w+/=.~-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # `password: x`, `"clientSecret": "x"`, `token=x`.
    (
        re.compile(
            rf"""(?<![\w.-])(["']?){_HARMLESS}({_KEY})\1(\s*[:=]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&}}\]]+)""",
            re.IGNORECASE,
        ),
        rf'\1\2\1\3"{REDACTED}"',
    ),
)
_ANNOTATIONS_KEPT: Final = (
    "pointsman.io/",
    "service.kubernetes.io/",
    "endpoints.kubernetes.io/",
    "endpointslice.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "deployment.kubernetes.io/",
)
_HIDDEN: Final = frozenset({"managedFields"})


def redact_text(text: str) -> tuple[str, int]:
    """The text without what looks like a secret, and how many places that were."""
    total = 0
    for pattern, replacement in _PATTERNS:
        text, count = pattern.subn(replacement, text)
        total += count
    return text, total


def redact_object(value: Any) -> Any:
    """A Kubernetes object, or anything like one, without values that people put secrets into.

    Annotations keep their names; of their values those that Pointsman and Kubernetes give a meaning. Environment
    variables keep their names. The contents of Secrets and ConfigMaps go altogether.
    """
    if isinstance(value, Mapping):
        if value.get("kind") in ("Secret", "ConfigMap"):
            value = {key: item for key, item in value.items() if key in ("apiVersion", "kind", "metadata")}
        return {key: _field(key, item) for key, item in value.items() if key not in _HIDDEN}
    if isinstance(value, list):
        return [redact_object(item) for item in value]
    return value


def _field(key: str, value: Any) -> Any:
    if key == "annotations" and isinstance(value, Mapping):
        return {name: text if name.startswith(_ANNOTATIONS_KEPT) else REDACTED for name, text in value.items()}
    if key == "env" and isinstance(value, list):
        return [{**item, "value": REDACTED} if "value" in item else item for item in value if isinstance(item, Mapping)]
    return redact_object(value)
