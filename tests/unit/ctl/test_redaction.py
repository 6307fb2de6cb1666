# SPDX-License-Identifier: Apache-2.0
"""What leaves the cluster has no secrets in it, however they were written."""

import json

import pytest

from pointsman_ctl.core.redact import REDACTED, redact_object, redact_text

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPsecretsecret\n-----END EC PRIVATE KEY-----"
HEADER_AND_MORE = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2ludHNtYW4ifQ.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"before {KEY} after", "MHcCAQ"),
        (json.dumps({"key": KEY}), "MHcCAQ"),
        ("-----BEGIN PRIVATE KEY-----\nMIIcut off", "MIIcut"),
        (f"token was {HEADER_AND_MORE}.", "eyJzdWI"),
        ("redis://pointsman:hunter2@10.0.0.5:6379/0", "hunter2"),
        ("rediss://:hunter2@redis/0", "hunter2"),
        ("Authorization: Bearer abcdef0123456789", "abcdef0123"),
        ("authorization: Basic cG9pbnRzbWFuOmh1bnRlcjI=", "cG9pbnRz"),
        ("password: hunter2", "hunter2"),
        ("password=hunter2&x=1", "hunter2"),
        ('{"redisPassword": "hun\\"ter2"}', "ter2"),
        ("client-key-data: aHVudGVyMg==", "aHVudGVy"),
        ("'api_key': 'hunter2'", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
    ],
)
def test_texts_lose_their_secrets(text: str, secret: str) -> None:
    found, count = redact_text(text)
    assert secret not in found
    assert REDACTED in found
    assert count >= 1


@pytest.mark.parametrize(
    "text",
    [
        "tokenFile: /var/run/secrets/pointsman/token",
        "keyFile: /etc/pointsman-tls/tls.key",
        "secretName: pointsman-planner-tls",
        "http://10.0.0.5:9444/statusz",
        "planner planner-1 answers on 10.0.0.5:7444",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == (text, 0)


def test_objects_lose_environment_values_foreign_annotations_and_what_secrets_hold() -> None:
    pod = {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "x",
                "pointsman.io/ipvs-scheduler": "lc",
            },
            "managedFields": [{}],
        },
        "spec": {"containers": [{"env": [{"name": "A", "value": "hunter2"}, {"name": "B", "valueFrom": {}}]}]},
    }
    found = redact_object(
        {"kind": "List", "items": [pod, {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "v"}}]}
    )
    first, second = found["items"]
    assert first["metadata"] == {
        "name": "p",
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": REDACTED,
            "pointsman.io/ipvs-scheduler": "lc",
        },
    }
    assert first["spec"]["containers"][0]["env"] == [{"name": "A", "value": REDACTED}, {"name": "B", "valueFrom": {}}]
    assert second == {"kind": "Secret", "metadata": {"name": "s"}}
