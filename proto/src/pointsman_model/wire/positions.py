# SPDX-License-Identifier: Apache-2.0
"""Positions, and how far the API server was read, on the wire: `plan.v1.Position` and `types.v1.ResourceVersions`."""

from __future__ import annotations

from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ClusterPosition, ResourceVersions


def resource_versions_to_pb(versions: ResourceVersions) -> types_pb2.ResourceVersions:
    """The message of resource versions."""
    return types_pb2.ResourceVersions(**versions._asdict())


def resource_versions_from_pb(message: types_pb2.ResourceVersions) -> ResourceVersions:
    """The resource versions of a message; all unknown when it is absent."""
    return ResourceVersions(message.services, message.endpoint_slices, message.nodes, message.service_cidrs)


def position_to_pb(position: ClusterPosition) -> plan_service_pb2.Position:
    """The message of a position; without resource versions when all are unknown."""
    message = plan_service_pb2.Position(epoch=position.epoch, revision=position.revision, overrides=position.overrides)
    if any(position.resource_versions):
        message.resource_versions.CopyFrom(resource_versions_to_pb(position.resource_versions))
    return message


def position_from_pb(message: plan_service_pb2.Position) -> ClusterPosition:
    """The position of a message."""
    return ClusterPosition(
        epoch=message.epoch,
        revision=message.revision,
        resource_versions=resource_versions_from_pb(message.resource_versions),
        overrides=message.overrides,
    )
