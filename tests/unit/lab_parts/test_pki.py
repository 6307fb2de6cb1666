# SPDX-License-Identifier: Apache-2.0
"""The lab's certificates: one authority, one certificate for each holder, good for what it is for."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pointsman_lab.pki import Pki, create_pki, issue


def certificate(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.identity(name).certificate.read_bytes())


def usages(found: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_planner_serves_at_its_addresses_and_dials_and_a_node_only_dials(tmp_path: Path) -> None:
    pki = create_pki(tmp_path, ["127.0.0.1"], ["localhost"])
    issue(pki, "planner-1", common_name="planner-1", addresses=["172.18.2.1", "fd00::1"], names=["planner-1"])
    issue(pki, "node-1", common_name="system:node:node-1", organization="system:nodes")
    authority = x509.load_pem_x509_certificate(pki.ca.read_bytes())
    planner, node = certificate(pki, "planner-1"), certificate(pki, "node-1")
    for each in (planner, node, certificate(pki, "server"), certificate(pki, "admin")):
        each.verify_directly_issued_by(authority)
    assert usages(planner) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert usages(node) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    names = planner.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("172.18.2.1"),
        ipaddress.ip_address("fd00::1"),
    ]
    assert [name.value for name in node.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:node-1"]


def test_keys_are_for_their_owner_alone_and_one_that_is_issued_again_is_replaced(tmp_path: Path) -> None:
    pki = create_pki(tmp_path, ["127.0.0.1"], [])
    first = issue(pki, "node-1", common_name="system:node:node-1")
    key, found = first.key.read_bytes(), certificate(pki, "node-1")
    issue(pki, "node-1", common_name="system:node:node-1")
    assert first.key.read_bytes() != key
    again = certificate(pki, "node-1")
    assert again.serial_number != found.serial_number
    private = serialization.load_pem_private_key(first.key.read_bytes(), None)
    assert again.public_key() == private.public_key()
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.key")} == {0}
