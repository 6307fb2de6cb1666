# SPDX-License-Identifier: Apache-2.0
"""Request bodies in Kubernetes protobuf, which kubectl's `create` commands and kube-proxy's events are written in.

`generate` turns Kubernetes' Go types into `schema.json` once; `decoder` reads bodies with it. Answers are always JSON.
"""
