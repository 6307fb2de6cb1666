#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A program that looks like kube-proxy from outside: its option, its configuration file, its watches, rules by nft.

For testing what runs a peer. It knows TCP ports of IPv4 cluster IPs and sends all to the first endpoint; like the real
one it ends when told to, and its rules stay.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

import yaml

PATHS = {"services": "/api/v1/services", "slices": "/apis/discovery.k8s.io/v1/endpointslices"}
Objects = dict[str, dict[tuple[str, str], Any]]


class Api:
    """The API server of a kubeconfig."""

    def __init__(self, path: str) -> None:
        config = yaml.safe_load(Path(path).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]) + b"\n")
            pair.flush()
            self.context.load_cert_chain(pair.name)

    def open(self, path: str) -> Any:
        """The answer to a GET, to be read."""
        return urllib.request.urlopen(self.server + path, context=self.context)  # noqa: S310 - a lab's own API server


def rules(objects: Objects) -> str:
    """The whole table, to replace what is there."""
    chosen: dict[tuple[str, str], tuple[str, int]] = {}
    for (namespace, _), item in objects["slices"].items():
        if item["endpoints"] and item["addressType"] == "IPv4":
            service = item["metadata"]["labels"]["kubernetes.io/service-name"]
            chosen[namespace, service] = (item["endpoints"][0]["addresses"][0], item["ports"][0]["port"])
    elements = ", ".join(
        f"{item['spec']['clusterIP']} . {port['port']} : {chosen[key][0]} . {chosen[key][1]}"
        for key, item in objects["services"].items()
        if key in chosen
        for port in item["spec"]["ports"]
    )
    entries = f"elements = {{ {elements} }}" if elements else ""
    return f"""add table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {{
    map services {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {entries} }}
    chain nat-output {{
        type nat hook output priority -100; policy accept;
        meta l4proto tcp dnat ip to ip daddr . tcp dport map @services
    }}
}}
"""


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    config = yaml.safe_load(Path(parser.parse_args().config).read_text())
    assert config["kind"] == "KubeProxyConfiguration"
    api = Api(config["clientConnection"]["kubeconfig"])
    objects: Objects = {kind: {} for kind in PATHS}
    lock, changed = threading.Lock(), threading.Event()

    def follow(kind: str, version: str) -> None:
        for line in api.open(f"{PATHS[kind]}?watch=true&resourceVersion={version}&timeoutSeconds=900"):
            event = json.loads(line)
            if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
                metadata = event["object"]["metadata"]
                key = metadata["namespace"], metadata["name"]
                with lock:
                    objects[kind][key] = event["object"]
                    if event["type"] == "DELETED":
                        del objects[kind][key]
                changed.set()

    for kind, path in PATHS.items():
        listed = json.load(api.open(path))
        for item in listed["items"]:
            objects[kind][item["metadata"]["namespace"], item["metadata"]["name"]] = item
        threading.Thread(target=follow, args=(kind, listed["metadata"]["resourceVersion"]), daemon=True).start()
    while True:
        with lock:
            text = rules(objects)
        subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)
        changed.wait()
        changed.clear()


if __name__ == "__main__":
    main()
