# SPDX-License-Identifier: Apache-2.0
"""Spans reach a real OTLP collector, configured by nothing but the environment; one that is away costs only spans."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from support.certificates import Authority
from support.otlp_collector import GRPC, HTTP, collecting

DEADLINE_SECONDS = 60.0


async def eventually(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # a machine's own, which `requests` puts above any other
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(f"OTEL_{name}", value)
        yield


async def sent_one(service: str = "pointsman-planner") -> None:
    """Make one span and end the process's tracing in order."""
    tracing = Tracing.from_environment(service, attributes={"k8s.node.name": "node-1"})
    tracing.new_traceparent("watch.event", start_ns=1, end_ns=2)
    await tracing.shutdown(timeout_seconds=30)


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_span_arrives_by_either_protocol_with_the_headers_asked_for(protocol: str, compression: str) -> None:
    async with collecting(protocol) as collector:
        with environment(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_HEADERS="x-tenant=east",
            EXPORTER_OTLP_COMPRESSION=compression,
        ):
            await sent_one()
    assert [(span.service, span.name) for span in collector.spans] == [("pointsman-planner", "watch.event")]
    assert {headers.get("x-tenant") for headers in collector.headers} == {"east"}


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_mutual_tls_is_set_up_by_the_variables_for_certificates(protocol: str, tmp_path: Path) -> None:
    authority = Authority("ca")
    server, client = authority.issue(tmp_path, "localhost"), authority.issue(tmp_path, "planner")
    async with collecting(protocol, tls=server) as collector:
        with environment(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_CERTIFICATE=client.ca_file,
            EXPORTER_OTLP_CLIENT_CERTIFICATE=client.cert_file,
            EXPORTER_OTLP_CLIENT_KEY=client.key_file,
        ):
            await sent_one()
    assert collector.names == ["watch.event"]


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_a_collector_of_another_authority_is_sent_nothing(protocol: str, tmp_path: Path) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    server, client = theirs.issue(tmp_path, "localhost"), ours.issue(tmp_path, "planner")
    registry = Registry(process=False)
    async with collecting(protocol, tls=server) as collector:
        with environment(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_CERTIFICATE=client.ca_file,
            EXPORTER_OTLP_TIMEOUT="1",
        ):
            tracing = Tracing.from_environment("pointsman-planner")
            tracing.count_in(registry, "pointsman_planner")
            tracing.new_traceparent("watch.event", start_ns=1)
            await tracing.shutdown(timeout_seconds=30)
    assert collector.spans == []
    assert spans(registry, "failed") == 1


def spans(registry: Registry, outcome: str) -> float | None:
    return registry.value("pointsman_planner_trace_spans_total", {"outcome": outcome})


async def test_the_process_says_who_it_is_by_the_semantic_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"POD_NAME": "planner-0", "POD_NAMESPACE": "pointsman", "POD_UID": "u-1"}.items():
        monkeypatch.setenv(name, value)
    async with collecting() as collector:
        with environment(EXPORTER_OTLP_TRACES_ENDPOINT=collector.endpoint):
            await sent_one()
    [resource] = collector.resources
    assert resource.pop("service.instance.id")
    assert resource.pop("service.version").count(".") >= 1
    assert resource.pop("host.name") == socket.gethostname()
    told = {key: value for key, value in resource.items() if key.startswith(("service.", "k8s."))}
    assert told == {
        "service.name": "pointsman-planner",
        "service.namespace": "pointsman",
        "k8s.node.name": "node-1",
        "k8s.pod.name": "planner-0",
        "k8s.pod.uid": "u-1",
        "k8s.namespace.name": "pointsman",
    }
    assert resource["telemetry.sdk.language"] == "python"


async def test_the_environment_has_the_last_word_on_who_the_process_is() -> None:
    async with collecting() as collector:
        with environment(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            SERVICE_NAME="planner-east",
            RESOURCE_ATTRIBUTES="k8s.cluster.name=east,k8s.node.name=other",
        ):
            await sent_one()
    [resource] = collector.resources
    wanted = ("planner-east", "east", "other")
    assert tuple(resource[key] for key in ("service.name", "k8s.cluster.name", "k8s.node.name")) == wanted


async def test_a_collector_that_is_away_loses_spans_and_nothing_else_and_is_found_when_it_is_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    registry = Registry(process=False)
    variables = {
        "EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "EXPORTER_OTLP_TIMEOUT": "1",
        "BSP_SCHEDULE_DELAY": "20",
        "BSP_MAX_QUEUE_SIZE": "64",
        "BSP_MAX_EXPORT_BATCH_SIZE": "16",
    }
    with environment(**variables), capture_logs() as lines:
        tracing = Tracing.from_environment("pointsman-planner")
        tracing.count_in(registry, "pointsman_planner")
        for number in range(500):
            tracing.new_traceparent("lost", start_ns=number)
        await eventually(lambda: (spans(registry, "failed") or 0) > 0, "a batch failed")
        assert not spans(registry, "exported")
        async with collecting(port=port) as collector:

            def is_back() -> bool:
                tracing.new_traceparent("found", start_ns=1)
                return "found" in collector.names

            await eventually(is_back, "spans arrive again")
            await tracing.shutdown(timeout_seconds=30)
            made = 500 + sum(1 for name in collector.names if name == "found")
            lost = sum(spans(registry, outcome) or 0 for outcome in ("dropped", "failed"))
            assert spans(registry, "exported") == len(collector.spans)
            assert len(collector.spans) + lost >= made, "every span is accounted for"
    told = [line["log_level"] for line in lines if "collector" in line["event"]]
    assert told == ["warning", "info"], "one line when it goes, one when it is back"


@pytest.mark.parametrize(
    "variables",
    [
        {"EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"},
        {"EXPORTER_OTLP_TRACES_CLIENT_KEY": "/nowhere/key.pem"},
        {"EXPORTER_OTLP_TIMEOUT": "soon"},
        {"EXPORTER_OTLP_COMPRESSION": "brotli"},
        {"BSP_MAX_QUEUE_SIZE": "many"},
        {"BSP_MAX_QUEUE_SIZE": "0"},
        {"BSP_SCHEDULE_DELAY": "often"},
        {"TRACES_SAMPLER": "some"},
        {"TRACES_SAMPLER": "parentbased_traceidratio", "TRACES_SAMPLER_ARG": "1%"},
        {"TRACES_SAMPLER": "traceidratio", "TRACES_SAMPLER_ARG": "10"},
    ],
)
def test_a_variable_that_cannot_be_used_is_a_configuration_error(variables: dict[str, str]) -> None:
    with environment(EXPORTER_OTLP_ENDPOINT="https://127.0.0.1:4317", **variables):
        with pytest.raises(ConfigError) as caught:
            Tracing.from_environment("pointsman-planner")
        assert "OTEL_" in str(caught.value)
