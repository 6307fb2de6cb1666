# SPDX-License-Identifier: Apache-2.0
"""What a sync leaves for people: spans for traced changes only, kube-proxy's metrics always."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.programming_time import SERVICE_CLASSES
from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import ChangeOrigin, Position, Stage, Transaction
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.mode_settings import ModeName
from pointsman_enforcer.observability import SyncObserver
from pointsman_model.names import Family, ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import key, load_balancer, numbered

TRACED = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
UNTRACED = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"


class Kept(SpanExporter):
    """Keeps what is exported."""

    def __init__(self) -> None:
        self.spans: list[object] = []

    def export(self, spans: object) -> SpanExportResult:
        self.spans.extend(spans)  # type: ignore[call-overload]  # a sequence of spans
        return SpanExportResult.SUCCESS


PLANS = PlanStore()
PLANS.apply(
    Transaction(
        nonce=1, updates={key(1): encode_service_plan(numbered(1)), key(2): encode_service_plan(load_balancer())}
    )
)


def observe(
    *origins: ChangeOrigin, tally: Tally | None = None, failed: frozenset[ServiceKey] = frozenset()
) -> tuple[list[object], Registry]:
    exporter, registry = Kept(), Registry(process=False)
    tracer = OtlpTracer("test", {}, exporter=exporter)
    observer = SyncObserver(
        metrics=EnforcerMetrics(registry),
        tracing=Tracing(tracer),
        plans=PLANS,
        is_failed=failed.__contains__,
        started_at_ns=1_000_000_000,
    )
    programmed = Programmed(
        nonce=1, position=Position("e", 7), digest=1, programmed_digest=1, applied_at_ns=5_000_000_000
    )
    pending = Pending(stream=None, nonce=1, received_ns=4_000_000_000, origins=list(origins))
    observer.synced(pending, programmed, tally or Tally(messages=2, bytes=224, services=1, seconds=0.001))
    tracer.shutdown()
    return exporter.spans, registry


def test_a_traced_change_has_a_span_for_rendering_and_one_for_applying_under_its_parent() -> None:
    tally = Tally(messages=2, bytes=224, services=1, timings={key(1): (10, 20, 30)})
    spans, _ = observe(ChangeOrigin(key(1), TRACED), tally=tally)
    found = {span.name: span for span in spans}  # type: ignore[attr-defined]  # spans of the SDK
    assert set(found) == {"dataplane.render", "dataplane.apply"}
    assert (found["dataplane.render"].start_time, found["dataplane.render"].end_time) == (10, 20)
    assert (found["dataplane.apply"].start_time, found["dataplane.apply"].end_time) == (20, 30)
    assert found["dataplane.apply"].attributes["pointsman.kernel_bytes"] == 224
    assert {format(span.parent.span_id, "016x") for span in found.values()} == {"2" * 16}


def test_an_untraced_change_has_none_and_one_trace_is_told_once() -> None:
    assert observe(ChangeOrigin(key(1), UNTRACED), ChangeOrigin(key(2), ""))[0] == []
    assert len(observe(ChangeOrigin(key(1), TRACED), ChangeOrigin(key(2), TRACED))[0]) == 2


def test_a_failed_service_fails_its_span() -> None:
    tally = Tally(failures={key(1): Failure(key=key(1), stage=Stage.APPLY, message="no room")})
    spans, _ = observe(ChangeOrigin(key(1), TRACED), tally=tally)
    [failed] = [span for span in spans if not span.status.is_ok and span.status.description]  # type: ignore[attr-defined]  # spans of the SDK
    assert failed.status.description == "apply: no room"  # type: ignore[attr-defined]  # a span of the SDK


def test_the_log_line_of_a_failure_names_the_trace_of_its_change() -> None:
    tally = Tally(failures={key(1): Failure(key=key(1), stage=Stage.APPLY, message="no room")})
    with capture_logs() as lines:
        observe(ChangeOrigin(key(1), UNTRACED), tally=tally)
    [line] = lines
    assert (line["failed"], line["error"], line["trace_id"]) == (str(key(1)), "no room", "1" * 32)


def test_a_failure_and_a_slow_sync_are_kept_though_nobody_sampled_the_change() -> None:
    failed = Tally(failures={key(1): Failure(key=key(1), stage=Stage.APPLY, message="no room")})
    for tally in (failed, Tally(seconds=9.0)):
        spans, _ = observe(ChangeOrigin(key(1), UNTRACED), ChangeOrigin(key(1), ""), tally=tally)
        names = [span.name for span in spans]  # type: ignore[attr-defined]  # spans of the SDK
        assert sorted(names) == ["dataplane.apply", "dataplane.render"]
        assert {span.context.trace_id for span in spans} == {int("1" * 32, 16)}  # type: ignore[attr-defined]  # the same


def test_changes_that_one_sync_took_are_linked_through_the_newest() -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2, 3)]
    spans, _ = observe(*(ChangeOrigin(key(number), parent) for number, parent in enumerate(parents)))
    applies = {span.context.trace_id: span for span in spans if span.name == "dataplane.apply"}  # type: ignore[attr-defined]  # the same
    newest = applies[3]
    assert [link.context.trace_id for link in newest.links] == [1, 2]
    assert {link.context.span_id for number in (1, 2) for link in applies[number].links} == {newest.context.span_id}


def test_figures_carry_kube_proxys_names() -> None:
    _, registry = observe(ChangeOrigin(key(1), "", trigger_time_ns=3_000_000_000))
    four = {"ip_family": "IPv4"}
    assert registry.value("kubeproxy_sync_proxy_rules_duration_seconds_count", four) == 1
    assert registry.value("kubeproxy_sync_partial_proxy_rules_duration_seconds_count", four) == 1
    assert registry.value("kubeproxy_sync_proxy_rules_last_timestamp_seconds", four) == 5
    assert registry.value("kubeproxy_network_programming_duration_seconds_sum", four) == 2
    assert registry.value("pointsman_enforcer_kernel_bytes_total") == 224
    assert registry.value("pointsman_enforcer_plan_revision") == 7


def test_programming_time_counts_once_by_how_far_out_a_service_reaches_and_shows_a_trace() -> None:
    recent = 2_000_000_000
    _, registry = observe(ChangeOrigin(key(1), TRACED, recent), ChangeOrigin(key(2), "", trigger_time_ns=recent))
    name = "pointsman_enforcer_network_programming_duration_seconds"
    counts = {each: registry.value(f"{name}_count", {"service_class": each}) for each in SERVICE_CLASSES}
    assert counts == {"cluster_ip": 1, "load_balancer": 1, "node_port": 0, "external_ip": 0}
    content_type, page = registry.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    shown = [line for line in page.decode().splitlines() if "# {" in line]
    assert {line.split("{")[0] for line in shown} == {
        f"{name}_bucket", "kubeproxy_network_programming_duration_seconds_bucket",
    }  # fmt: skip
    assert all('# {trace_id="' + "1" * 32 + '"} 3.0' in line for line in shown)
    assert b"trace_id" not in registry.render("text/plain")[1]


def programming_times(*origins: ChangeOrigin, failed: frozenset[ServiceKey] = frozenset()) -> tuple[float, float]:
    """How many were observed in each family."""
    _, registry = observe(*origins, failed=failed)
    name = "kubeproxy_network_programming_duration_seconds_count"
    four, six = (registry.value(name, {"ip_family": family}) for family in ("IPv4", "IPv6"))
    return four or 0, six or 0


def test_programming_time_counts_in_the_families_that_the_service_has() -> None:
    recent = 2_000_000_000
    assert programming_times(ChangeOrigin(key(1), trigger_time_ns=recent)) == (1, 0)
    four, six = (ChangeOrigin(key(2), trigger_time_ns=recent, family=family) for family in Family)
    assert programming_times(four) == (1, 0)
    assert programming_times(six, six) == (0, 2), "a slice is of one family, whatever its service has"
    assert programming_times(ChangeOrigin(key(2), trigger_time_ns=recent)) == (1, 1), "a planner that does not say"
    assert programming_times(ChangeOrigin(key(1), trigger_time_ns=recent, family=Family.IPV6)) == (0, 0)
    assert programming_times(ChangeOrigin(key(3), trigger_time_ns=recent)) == (0, 0), "a service that is gone"


def test_programming_time_leaves_out_what_is_old_or_failed() -> None:
    old, recent = ChangeOrigin(key(1), trigger_time_ns=999_999_999), ChangeOrigin(key(1), trigger_time_ns=2_000_000_000)
    assert programming_times(old) == (0, 0)
    assert programming_times(recent, failed=frozenset({key(1)})) == (0, 0)
    assert programming_times(recent, recent, old) == (2, 0)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("nftables", {"nftables_sync_failures", "nftables_cleanup_failures"}),
        ("iptables", {"iptables_restore_failures", "iptables_partial_restore_failures"}),
        ("ipvs", {"iptables_restore_failures"}),
        ("userspace", set()),
    ],
)
def test_failures_have_the_names_that_kube_proxy_gives_them_in_each_mode(mode: ModeName, names: set[str]) -> None:
    registry = Registry(process=False)
    EnforcerMetrics(registry, mode).refused(is_cleanup=False)
    prefix = "kubeproxy_sync_proxy_rules_"
    found = {family.name.removeprefix(prefix) for family in registry.families() if "_failures_total" in family.name}
    assert found >= {f"{name}_total" for name in names}
    ours = registry.value("pointsman_enforcer_sync_failures_total", {"kind": "sync"})
    theirs = [registry.value(f"{prefix}{name}_total", {"ip_family": "IPv4"}) for name in names if "cleanup" not in name]
    assert [ours, *theirs] == [1] * (1 + len(theirs))
    assert {name for name in found if "tables" in name} == {f"{name}_total" for name in names}
    assert registry.value("pointsman_enforcer_info", {"mode": mode}) == 1


@pytest.mark.parametrize(("stage", "expected"), [(Stage.APPLY, 1), (Stage.DECODE, 0), (Stage.UNSUPPORTED, 0)])
def test_a_service_that_the_kernel_refused_is_a_sync_failure_and_one_that_never_came_there_is_none(
    stage: Stage, expected: int
) -> None:
    _, registry = observe(tally=Tally(failures={key(1): Failure(key=key(1), stage=stage, message="no")}))
    name = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"
    assert registry.value(name, {"ip_family": "IPv4"}) == expected
