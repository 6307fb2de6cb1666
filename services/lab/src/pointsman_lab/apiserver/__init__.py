# SPDX-License-Identifier: Apache-2.0
"""The lab's embedded Kubernetes API server.

    resources (table) - selectors, encoding, errors
        |
    eventlog < store < listing, watching          pure and synchronous
        |
    admission, patches, deletion < registry       pure and synchronous: the verbs; a controller calls these
        |
    verbs, watchstream, documents, admin < server the HTTP shell
    client                                        a small asynchronous client for controllers, demo and benchmark

Start with `new_cluster()`, which gives a `Registry`, and serve it with `ApiServer`.
"""

from pointsman_lab.apiserver.bootstrap import ClusterOptions, new_cluster
from pointsman_lab.apiserver.client import ApiClient, WatchEvent
from pointsman_lab.apiserver.deletion import DeleteOptions
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.listing import ListOptions
from pointsman_lab.apiserver.registry import Patch, Registry
from pointsman_lab.apiserver.server import ApiServer, ServerOptions
from pointsman_lab.apiserver.store import ObjectStore

__all__ = [
    "ApiClient",
    "ApiError",
    "ApiServer",
    "ClusterOptions",
    "DeleteOptions",
    "ListOptions",
    "ObjectStore",
    "Patch",
    "Registry",
    "ServerOptions",
    "WatchEvent",
    "new_cluster",
]
