# SPDX-License-Identifier: Apache-2.0
"""The four resources that are watched: where they are, how they are filtered at the server, how they are decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pointsman_model.cluster import ClusterObject, ObjectKind
from pointsman_watcher.core.api_objects import (
    HEADLESS_LABEL,
    SERVICE_PROXY_NAME_LABEL,
    EndpointSliceObject,
    NodeObject,
    ServiceCIDRObject,
    ServiceObject,
    TypedEvent,
    TypedPage,
)
from pointsman_watcher.core.endpoint_slices import convert_endpoint_slice
from pointsman_watcher.core.nodes import convert_node, convert_service_cidr
from pointsman_watcher.core.problems import Problems
from pointsman_watcher.core.services import convert_service

Convert = Callable[[Any, Problems], ClusterObject | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource of the API."""

    kind: ObjectKind
    plural: str
    """As in RBAC rules, logs and metrics."""
    path: str
    """Collection over all namespaces."""
    label_selector: str = ""
    field_selector: str = ""
    is_optional: bool = False
    """Whether an API server that does not serve it (404) counts as one that has none."""
    convert: Convert
    page_decoder: "msgspec.json.Decoder[Any]"
    event_decoder: "msgspec.json.Decoder[Any]"
    object_decoder: "msgspec.json.Decoder[Any]"


SERVICES: Final = Resource(
    kind=ObjectKind.SERVICE,
    plural="services",
    path="/api/v1/services",
    label_selector=f"!{SERVICE_PROXY_NAME_LABEL}",
    field_selector="spec.clusterIP!=None",
    convert=convert_service,
    page_decoder=msgspec.json.Decoder(TypedPage[ServiceObject]),
    event_decoder=msgspec.json.Decoder(TypedEvent[ServiceObject]),
    object_decoder=msgspec.json.Decoder(ServiceObject),
)
ENDPOINT_SLICES: Final = Resource(
    kind=ObjectKind.ENDPOINT_SLICE,
    plural="endpointslices",
    path="/apis/discovery.k8s.io/v1/endpointslices",
    label_selector=f"!{HEADLESS_LABEL}",
    convert=convert_endpoint_slice,
    page_decoder=msgspec.json.Decoder(TypedPage[EndpointSliceObject]),
    event_decoder=msgspec.json.Decoder(TypedEvent[EndpointSliceObject]),
    object_decoder=msgspec.json.Decoder(EndpointSliceObject),
)
NODES: Final = Resource(
    kind=ObjectKind.NODE,
    plural="nodes",
    path="/api/v1/nodes",
    convert=convert_node,
    page_decoder=msgspec.json.Decoder(TypedPage[NodeObject]),
    event_decoder=msgspec.json.Decoder(TypedEvent[NodeObject]),
    object_decoder=msgspec.json.Decoder(NodeObject),
)
SERVICE_CIDRS: Final = Resource(
    kind=ObjectKind.SERVICE_CIDR,
    plural="servicecidrs",
    path="/apis/networking.k8s.io/v1/servicecidrs",
    is_optional=True,
    convert=convert_service_cidr,
    page_decoder=msgspec.json.Decoder(TypedPage[ServiceCIDRObject]),
    event_decoder=msgspec.json.Decoder(TypedEvent[ServiceCIDRObject]),
    object_decoder=msgspec.json.Decoder(ServiceCIDRObject),
)
RESOURCES: Final = (SERVICES, ENDPOINT_SLICES, NODES, SERVICE_CIDRS)
