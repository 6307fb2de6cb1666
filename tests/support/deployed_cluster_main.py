# SPDX-License-Identifier: Apache-2.0
"""The API server of a node on which the rendered manifests run, as one process for a network namespace.

Usage: python -m support.deployed_cluster_main ADDRESS DIRECTORY

Listens at ADDRESS:6443 with the certificate of that name in DIRECTORY. DIRECTORY/tokens.json holds bearer tokens with
the service account and the node they name. Makes the node, and the Service shop/web with one endpoint.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from pointsman_lab.apiserver import ApiClient, ApiServer, ServerOptions, new_cluster
from pointsman_lab.apiserver.auth import server_tls
from pointsman_lab.apiserver.identities import Holder, account_holder
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NAMESPACES, NODES, SERVICES
from support.certificates import certificate_files
from support.cluster_objects import endpoint_slice_json, node_json, service_json

SERVICE: Final = "10.96.7.7"
NODE: Final = "pointsman-control-plane"


def _holder(described: dict[str, str]) -> Holder:
    namespace, _, name = described["account"].partition("/")
    audience = described["audience"]
    return account_holder(namespace, name, audience=audience, node=described["node"])


async def _main(address: str, directory: Path) -> None:
    tokens = {text: _holder(each) for text, each in json.loads((directory / "tokens.json").read_text()).items()}
    files = certificate_files(directory, address)
    tls = server_tls(Path(files.cert_file), Path(files.key_file), None)
    server = ApiServer(new_cluster(), ServerOptions(tls=tls, tokens=tokens, anonymous=False))
    await server.start(host=address, port=6443)
    token = next(iter(tokens))
    async with ApiClient(f"https://{address}:6443", tls=False, token=token) as client:
        for resource, body, namespace in (
            (NAMESPACES, {"metadata": {"name": "shop"}}, ""),
            (NODES, node_json(NODE, address, pod_cidrs=["10.244.0.0/24"]), ""),
            (SERVICES, service_json("shop/web", SERVICE), "shop"),
            (ENDPOINTSLICES, endpoint_slice_json("shop/web-1", "web", ["10.244.0.9"]), "shop"),
        ):
            for name in ("uid", "resourceVersion"):
                body["metadata"].pop(name, None)
            await client.create(resource, body, namespace)
    (directory / "ready").touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2])))
