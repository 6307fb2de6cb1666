# SPDX-License-Identifier: Apache-2.0
"""A registry belongs to whoever made it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman_chassis.metrics import Registry


def test_two_registries_count_apart() -> None:
    first, second = Registry(process=False), Registry(process=False)
    counters = [registry.counter("pointsman_events_total", "Events.", ("kind",)) for registry in (first, second)]
    counters[0].labels(kind="Service").inc(2)
    assert first.value("pointsman_events_total", {"kind": "Service"}) == 2
    assert second.value("pointsman_events_total", {"kind": "Service"}) is None


def test_one_name_cannot_be_registered_twice() -> None:
    registry = Registry(process=False)
    registry.gauge("pointsman_streams", "Streams.")
    with pytest.raises(ValueError, match="pointsman_streams"):
        registry.gauge("pointsman_streams", "Streams.")


def test_what_is_rendered_is_what_prometheus_reads() -> None:
    registry = Registry()
    registry.histogram("pointsman_apply_seconds", "Time in the kernel.").observe(0.002)
    content_type, body = registry.render()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert content_type.startswith("text/plain")
    assert families["pointsman_apply_seconds"].type == "histogram"
    assert "process_resident_memory_bytes" in families


def test_a_computed_figure_is_what_it_is_when_somebody_asks() -> None:
    registry = Registry(process=False)
    events: list[str] = []
    registry.computed_counter("pointsman_events_total", "Events.", lambda: len(events))
    assert registry.value("pointsman_events_total") == 0
    events.append("one")
    assert b"pointsman_events_total 1.0" in registry.render()[1]
    with pytest.raises(ValueError, match="pointsman_events"):
        registry.counter("pointsman_events_total", "Events.")


def test_open_metrics_is_spoken_when_asked_for() -> None:
    content_type, body = Registry(process=False).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body == b"# EOF\n"
