# SPDX-License-Identifier: Apache-2.0
"""What the controllers know of the API server, never older than what they wrote themselves. Pure.

A controller that decides on a stale view makes every pod twice. So the answer to each write enters the cache at once,
and a watch event that is older than what the cache holds, or speaks of an object known to be gone, is ignored.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator

from pointsman_lab.controller.objects import Object, key, namespace, uid

_GONE_MAX = 10_000


class ObjectCache:
    """The objects of one kind."""

    def __init__(self) -> None:
        """Starts empty."""
        self._objects: dict[str, Object] = {}
        self._by_namespace: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, object_key: str) -> Object | None:
        """The object under a key."""
        return self._objects.get(object_key)

    def within(self, namespace_name: str) -> list[Object]:
        """The objects of a namespace."""
        return list(self._by_namespace[namespace_name].values())

    def put(self, obj: Object) -> bool:
        """Takes an object in; False when it says nothing new."""
        if uid(obj) in self._gone:
            return False
        old = self._objects.get(key(obj))
        if old is not None and uid(old) == uid(obj) and _version(old) >= _version(obj):
            return False
        self._objects[key(obj)] = obj
        self._by_namespace[namespace(obj)][key(obj)] = obj
        return True

    def remove(self, obj: Object) -> None:
        """Forgets an object for good; a newer one with the same name stays."""
        self._gone[uid(obj)] = None
        while len(self._gone) > _GONE_MAX:
            self._gone.popitem(last=False)
        old = self._objects.get(key(obj))
        if old is not None and uid(old) == uid(obj):
            del self._objects[key(obj)]
            self._by_namespace[namespace(obj)].pop(key(obj), None)

    def replace(self, objects: Iterable[Object]) -> tuple[list[Object], list[Object]]:
        """Takes a full list in; answers with what it changed: (new or changed objects, objects that went)."""
        listed = {uid(obj): obj for obj in objects}
        gone = [obj for obj in self if uid(obj) not in listed]
        for obj in gone:
            self.remove(obj)
        changed = [
            obj
            for obj in listed.values()
            if (old := self.get(key(obj))) is None or _version(old) < _version(obj) or uid(old) != uid(obj)
        ]
        return [obj for obj in changed if self.put(obj)], gone


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)
