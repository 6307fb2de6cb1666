# SPDX-License-Identifier: Apache-2.0
"""Watches: what one watcher gets to see of a collection, as a cursor over its event log.

            start: no version or "0": ADDED for all that is there, then changes
                   a version: changes after it; compacted: one ERROR; from the future: nothing until then
                   sendInitialEvents: ADDED for all, a BOOKMARK with initial-events-end, then changes

A selector judges the object before and after each change, so a change of labels can look like a creation or a removal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.encoding import bookmark_object
from pointsman_lab.apiserver.eventlog import ADDED, DELETED, MODIFIED, Event, StoredObject
from pointsman_lab.apiserver.listing import ListOptions, list_objects, parse_version
from pointsman_lab.apiserver.selectors import EVERYTHING, Selector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.store import Collection

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What a watch asks for; `resource_version` and `match` are the raw query values."""

    namespace: str = ""
    selector: Selector = EVERYTHING
    resource_version: str = ""
    match: str = ""
    bookmarks: bool = False
    send_initial_events: bool = False

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            ApiError: 400 for a version that is no number, 422 for the rest, as a real server answers.
        """
        parse_version(self.resource_version)
        field = "sendInitialEvents" if self.send_initial_events else "resourceVersionMatch"
        if self.send_initial_events and self.match != "NotOlderThan":
            raise _refused(
                "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        if not self.send_initial_events and self.match:
            raise _refused(field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")


def _refused(field: str, why: str) -> errors.ApiError:
    cause = errors.forbidden_field(field, why)
    details = {
        "group": "meta.k8s.io",
        "kind": "ListOptions",
        "causes": [{"reason": cause.reason, "message": cause.message, "field": field}],
    }
    return errors.ApiError(
        422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {field}: {cause.message}', details=details
    )


class WatchCursor:
    """Where one watcher stands in a collection's history.

    `initial` holds the objects to show as ADDED before anything else; `position` is the version it has seen up to.

    Raises:
        ApiError: 410 from the constructor or `take`, when the history after the position is compacted.
    """

    def __init__(self, collection: Collection, revision: int, options: WatchOptions) -> None:
        self._collection = collection
        self._selector = options.selector
        self._prefix = f"{options.namespace}/" if options.namespace else ""
        version = parse_version(options.resource_version)
        self.initial: Sequence[StoredObject] = ()
        if options.send_initial_events or version == 0:
            if version > revision:
                raise errors.too_large_resource_version(version, revision)
            listing = list_objects(
                collection, revision, ListOptions(namespace=options.namespace, selector=options.selector)
            )
            self.initial = listing.objects
            self.position = revision
        else:
            self.position = version
            self._check_history()

    def take(self, limit: int, committed_before: float | None = None) -> list[tuple[str, Event]]:
        """Give the next changes this watcher may see, as (ADDED, MODIFIED or DELETED, event), and move past them.

        At most `limit` events are looked at, and only those committed before the given time; an empty answer with
        an unchanged position means there is nothing more for now.
        """
        self._check_history()
        seen: list[tuple[str, Event]] = []
        for event in self._collection.log.after(self.position, limit):
            if committed_before is not None and event.committed_at > committed_before:
                break
            self.position = event.resource_version
            kind = self._kind(event)
            if kind:
                seen.append((kind, event))
        return seen

    def next_commit_time(self) -> float | None:
        """Give the commit time of the next change of the collection, None when there is none yet."""
        ahead = self._collection.log.after(self.position, 1)
        return ahead[0].committed_at if ahead else None

    def bookmark(self, revision: int, *, end_of_initial_events: bool = False) -> Json:
        """Give the bookmark object of a watcher that has seen everything up to `revision`."""
        annotations = {INITIAL_EVENTS_END: "true"} if end_of_initial_events else None
        return bookmark_object(self._collection.resource, max(revision, self.position), annotations)

    def _check_history(self) -> None:
        oldest = self._collection.log.compacted
        if self.position < oldest:
            raise errors.watch_expired(self.position, oldest)

    def _kind(self, event: Event) -> str:
        if self._prefix and not event.key.startswith(self._prefix):
            return ""
        was = event.before is not None and self._selects(event.before)
        now = event.after is not None and self._selects(event.after)
        if now:
            return MODIFIED if was else ADDED
        return DELETED if was else ""

    def _selects(self, stored: StoredObject) -> bool:
        return self._selector.everything or self._selector.matches(stored.labels, stored.fields)
