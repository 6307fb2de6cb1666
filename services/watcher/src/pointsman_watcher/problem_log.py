# SPDX-License-Identifier: Apache-2.0
"""One log line per faulty object, not one per event about it.

A hostile object is seen again with each of its updates and with every relist. It is reported when it becomes faulty or
faulty in another way, and forgotten when it is sound again.
"""

from collections import OrderedDict
from typing import Final

import structlog

from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_watcher.core.decode import Item, Observed
from pointsman_watcher.core.problems import Problem
from pointsman_watcher.metrics import WatcherMetrics

_LISTED_MAX: Final = 5
_REMEMBERED_MAX: Final = 10_000

_Subject = ObjectKey | tuple[ObjectKind, Problem]


class ProblemLog:
    """Remembers what was said about at most 10,000 objects."""

    def __init__(self, metrics: WatcherMetrics) -> None:
        self._metrics = metrics
        self._said: OrderedDict[_Subject, tuple[Problem, ...]] = OrderedDict()

    def report(self, kind: ObjectKind, resource: str, item: Item) -> None:
        """Log and count what is wrong with one decoded object, unless that was said already."""
        problems = item.problems if isinstance(item, Observed) else (item.problem,)
        subject: _Subject = item.key if item.key is not None else (kind, problems[0])
        if not problems:
            if self._said:
                self._said.pop(subject, None)
            return
        if self._said.get(subject) == problems:
            return
        self._said[subject] = problems
        self._said.move_to_end(subject)
        if len(self._said) > _REMEMBERED_MAX:
            self._said.popitem(last=False)
        self._say(resource, item, problems)

    def _say(self, resource: str, item: Item, problems: tuple[Problem, ...]) -> None:
        if isinstance(item, Observed):
            self._metrics.faulty_fields.labels(resource).inc(len(problems))
            message = "object has fields that cannot be read; they are left out"
        else:
            self._metrics.rejected_objects.labels(resource).inc()
            message = "object cannot be read; its last good state is kept"
        structlog.get_logger("decode").warning(
            message,
            resource=resource,
            object=str(item.key) if item.key else "(name unreadable)",
            resource_version=item.resource_version,
            problems=[str(problem) for problem in problems[:_LISTED_MAX]],
            problem_count=len(problems),
        )
