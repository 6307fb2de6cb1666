# SPDX-License-Identifier: Apache-2.0
import pytest

from pointsman_model.cluster import ClusterPosition, ObjectKind, ResourceVersions, version_number
from pointsman_model.wire.positions import (
    position_from_pb,
    position_to_pb,
    resource_versions_from_pb,
    resource_versions_to_pb,
)


@pytest.mark.parametrize(("text", "number"), [("17", 17), ("", 0), ("v3", 0), ("²", 0), ("-4", 0), ("9" * 20, 0)])
def test_a_version_that_is_no_number_is_unknown(text: str, number: int) -> None:
    assert version_number(text) == number


def test_versions_are_compared_kind_by_kind() -> None:
    held = ResourceVersions(services=10, endpoint_slices=20, nodes=30)
    assert held.missing(ResourceVersions(services=10, endpoint_slices=21)) == (ObjectKind.ENDPOINT_SLICE,)
    assert held.missing(ResourceVersions(service_cidrs=1)) == (ObjectKind.SERVICE_CIDR,)
    assert held.missing(ResourceVersions()) == ()
    assert held.includes(ResourceVersions(nodes=30))
    assert not held.includes(ResourceVersions()), "what is not known is not proved"
    assert held.having(ObjectKind.NODE, 31).of(ObjectKind.NODE) == 31


def test_a_position_includes_another_by_revision_within_a_history_and_by_versions_across() -> None:
    mine = ClusterPosition(epoch="a", revision=5, resource_versions=ResourceVersions(services=9))
    assert mine.includes(ClusterPosition(epoch="a", revision=5))
    assert not mine.includes(ClusterPosition(epoch="a", revision=6, resource_versions=ResourceVersions(services=9)))
    assert mine.includes(ClusterPosition(epoch="b", revision=800, resource_versions=ResourceVersions(services=9)))
    assert not mine.includes(ClusterPosition(epoch="b", revision=1))
    assert not ClusterPosition().includes(ClusterPosition())


def test_bookmarks_do_not_tell_positions_apart() -> None:
    assert ClusterPosition(epoch="a", revision=5) == ClusterPosition(
        epoch="a", revision=5, resource_versions=ResourceVersions(nodes=1)
    )


def test_the_wire_form_keeps_everything() -> None:
    versions = ResourceVersions(services=1, endpoint_slices=2, nodes=3, service_cidrs=1 << 63)
    assert resource_versions_from_pb(resource_versions_to_pb(versions)) == versions
    position = ClusterPosition(epoch="a", revision=5, resource_versions=versions, overrides=(1 << 64) - 1)
    back = position_from_pb(position_to_pb(position))
    assert (back, back.resource_versions, back.overrides) == (position, versions, (1 << 64) - 1)
    assert not position_to_pb(ClusterPosition(epoch="a", revision=1)).HasField("resource_versions")
