# SPDX-License-Identifier: Apache-2.0
"""JSON schemas of the custom resources that deploy/ uses, as much of them as it uses: an unknown field is an error."""

from typing import Any, Final

Schema = dict[str, Any]
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_DURATION: Final[Schema] = {"type": "string", "pattern": r"^([0-9]+(h|m|s|ms))+$"}


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _resource(spec: Schema) -> Schema:
    metadata = _object({"name": _TEXT, "namespace": _TEXT}, labels=_map(_TEXT), annotations=_map(_TEXT))
    return _object({"apiVersion": _TEXT, "kind": _TEXT, "metadata": metadata, "spec": spec})


_ISSUER: Final = _resource(
    {"oneOf": [_object({"selfSigned": _object({})}), _object({"ca": _object({"secretName": _TEXT})})]}
)
_CERTIFICATE: Final = _resource(
    _object(
        {
            "secretName": _TEXT,
            "issuerRef": _object({"name": _TEXT, "kind": {"enum": ["Issuer", "ClusterIssuer"]}}, group=_TEXT),
        },
        commonName={**_TEXT, "maxLength": 64},
        dnsNames=_list(_TEXT),
        isCA={"type": "boolean"},
        duration=_DURATION,
        renewBefore=_DURATION,
        usages=_list({"enum": ["server auth", "client auth"]}),
        privateKey=_object(
            {"algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]}},
            size={"enum": [256, 384, 521, 2048, 4096]},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
    )
)
_POD_MONITOR: Final = _resource(
    _object(
        {
            "selector": _object({"matchLabels": _map(_TEXT)}),
            "podMetricsEndpoints": _list(
                _object(
                    {"port": _TEXT},
                    path=_TEXT,
                    interval=_DURATION,
                    relabelings=_list(_object({"targetLabel": _TEXT}, sourceLabels=_list(_TEXT))),
                )
            ),
        }
    )
)
_RULE: Final = _object(
    {"expr": _TEXT}, alert=_TEXT, record=_TEXT, labels=_map(_TEXT), annotations=_map(_TEXT), **{"for": _DURATION}
)
_PROMETHEUS_RULE: Final = _resource(
    _object({"groups": _list(_object({"name": _TEXT, "rules": _list(_RULE)}, interval=_DURATION))})
)

CRD_SCHEMAS: Final[dict[tuple[str, str], Schema]] = {
    ("cert-manager.io/v1", "Issuer"): _ISSUER,
    ("cert-manager.io/v1", "Certificate"): _CERTIFICATE,
    ("monitoring.coreos.com/v1", "PodMonitor"): _POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PROMETHEUS_RULE,
}
"""By apiVersion and kind."""
