# SPDX-License-Identifier: Apache-2.0
"""What the API server counts: requests, bytes and open watches, so that tests can prove how few of them there are."""

from __future__ import annotations

from collections import Counter


class Stats:
    """Counters since the start or the last reset; `open_watches` is a level and survives a reset."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[int] = Counter()
        self.list_bytes: Counter[str] = Counter()
        self.watch_bytes: Counter[str] = Counter()
        self.watch_events: Counter[str] = Counter()
        self.open_watches: Counter[str] = Counter()

    def reset(self) -> None:
        """Set every counter but the level of open watches to zero."""
        for counter in (self.requests, self.answers, self.list_bytes, self.watch_bytes, self.watch_events):
            counter.clear()

    def as_json(self) -> dict[str, object]:
        """Give the counters: requests by verb and resource, the rest by resource."""
        by_verb: dict[str, dict[str, int]] = {}
        for (verb, resource), count in sorted(self.requests.items()):
            by_verb.setdefault(verb, {})[resource] = count
        return {
            "requests": by_verb,
            "answers": {str(code): count for code, count in sorted(self.answers.items())},
            "listBytes": dict(sorted(self.list_bytes.items())),
            "watchBytes": dict(sorted(self.watch_bytes.items())),
            "watchEvents": dict(sorted(self.watch_events.items())),
            "openWatches": {name: count for name, count in sorted(self.open_watches.items()) if count},
        }
