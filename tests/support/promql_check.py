# SPDX-License-Identifier: Apache-2.0
"""Checks PromQL against the metrics that processes really export: names, labels, and what a rate is taken of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import promql_parser

from pointsman_chassis.metrics import Described

TARGET_LABELS: Final = frozenset({"job", "instance", "namespace", "pod", "container", "endpoint"})
"""What Prometheus adds to every series of a PodMonitor."""
ENFORCER_TARGET_LABELS: Final = TARGET_LABELS | {"node"}
"""The PodMonitor of the enforcers adds the node."""
_RATES: Final = {"rate", "irate", "increase"}
_KEEPING: Final = {"topk", "bottomk"}
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class QueryError(AssertionError):
    """A query that can never find what it asks for."""


class Checker:
    """Knows every metric; finds the labels that a query's result has."""

    def __init__(self, catalogue: Mapping[str, tuple[Described, ...]]) -> None:
        self._metrics: dict[str, tuple[str, frozenset[str]]] = {}
        for service, families in catalogue.items():
            added = ENFORCER_TARGET_LABELS if service == "enforcer" else TARGET_LABELS
            for each in families:
                known = self._metrics.get(each.name, ("", frozenset()))[1]
                self._metrics[each.name] = (each.kind, known | frozenset(each.labels) | added)

    def labels(self, query: str) -> frozenset[str]:
        """The labels of the result.

        Raises:
            QueryError: a metric, or one of its labels, is not exported; or a rate is taken of what is no counter.
        """
        return self._labels(promql_parser.parse(query))

    def metrics(self, query: str) -> set[str]:
        """The metrics that a query reads."""
        found: set[str] = set()

        def visit(node: Any) -> bool:
            if isinstance(node, promql_parser.VectorSelector):
                found.update(name for name, _, _ in self._selected(node))
            return True

        promql_parser.walk(promql_parser.parse(query), visit)
        return found

    def _labels(self, node: Any) -> frozenset[str]:
        kind = type(node).__name__
        visit: dict[str, Callable[[Any], frozenset[str]]] = {
            "VectorSelector": self._selector,
            "MatrixSelector": lambda matrix: self._selector(matrix.vector_selector),
            "AggregateExpr": self._aggregate,
            "BinaryExpr": self._binary,
            "Call": self._call,
        }
        if kind in {"ParenExpr", "UnaryExpr", "SubqueryExpr"}:
            return self._labels(node.expr)
        return visit[kind](node) if kind in visit else frozenset()

    def _selected(self, node: Any) -> list[tuple[str, str, frozenset[str]]]:
        """Name, kind and labels of each metric of a selector."""
        names = [node.name] if node.name else _named(node, self._metrics)
        found = []
        for name in names:
            base, suffix = _base(name, self._metrics)
            if base is None:
                raise QueryError(f"{name} is exported by nobody")
            kind, labels = self._metrics[base]
            found.append((base, "counter" if suffix else kind, labels | ({"le"} if suffix == "_bucket" else set())))
        return found

    def _selector(self, node: Any) -> frozenset[str]:
        selected = self._selected(node)
        labels = frozenset[str].union(*(labels for _, _, labels in selected))
        asked = {matcher.name for matcher in node.matchers.matchers} - {"__name__"}
        for name, _, each in selected:
            _require(asked, each, f"{name} by a matcher")
        return labels

    def _aggregate(self, node: Any) -> frozenset[str]:
        inner = self._labels(node.expr)
        if str(node.op).lower() in _KEEPING:
            return inner
        if node.modifier is None:
            return frozenset()
        wanted = frozenset(node.modifier.labels)
        _require(wanted, inner, f"{node.op} by")
        return wanted if str(node.modifier.type).endswith("By") else inner - wanted

    def _binary(self, node: Any) -> frozenset[str]:
        left, right = self._labels(node.lhs), self._labels(node.rhs)
        matching = getattr(node.modifier, "matching", None)
        if matching is not None:
            _require(frozenset(matching.labels), left & right, "matching of two sides")
        return left | right

    def _call(self, node: Any) -> frozenset[str]:
        name = node.func.name
        labels = frozenset[str]().union(*(self._labels(argument) for argument in node.args))
        if name in _RATES:
            selector = node.args[0].vector_selector
            for metric, kind, _ in self._selected(selector):
                if kind != "counter":
                    raise QueryError(f"{name} of {metric}, which is a {kind}")
        if name == "histogram_quantile":
            _require({"le"}, labels, "histogram_quantile needs")
            return labels - {"le"}
        return labels


def _named(node: Any, metrics: Iterable[str]) -> list[str]:
    """The metrics that a matcher on __name__ finds; each alternative must find one."""
    [pattern] = [matcher.value for matcher in node.matchers.matchers if matcher.name == "__name__"]
    found = [name for name in metrics if re.fullmatch(pattern, name)]
    if not found:
        raise QueryError(f"{pattern} is the name of no metric")
    return found


def _base(name: str, metrics: Mapping[str, tuple[str, frozenset[str]]]) -> tuple[str | None, str]:
    if name in metrics and metrics[name][0] != "histogram":
        return name, ""
    for suffix in _SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and metrics.get(base, ("",))[0] == "histogram":
            return base, suffix
    return None, ""


def _require(wanted: Iterable[str], there: Iterable[str], what: str) -> None:
    missing = set(wanted) - set(there)
    if missing:
        raise QueryError(f"{what}: no such label: {', '.join(sorted(missing))}; there are {', '.join(sorted(there))}")
