# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: the query syntax of the Kubernetes API, parsed once per request and then matched often."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman_lab.apiserver.resources import Resource

_SET: Final = re.compile(r"^(?P<key>[^\s=!,()<>]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_COMPARE: Final = re.compile(r"^(?P<key>[^\s=!,()<>]+)\s*(?P<op>==|=|!=|>|<)\s*(?P<value>[^\s=!,()<>]*)$")
_EXISTS: Final = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s=!,()<>]+)$")
_COMMA_OUTSIDE_BRACKETS: Final = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One term: `operator` is one of in, notin, exists, absent, gt, lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy the term; a missing label satisfies `notin`, as in Kubernetes."""
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
        return value is not None and _compares(self.operator, value, next(iter(self.values)))


def _compares(operator: str, value: str, bound: str) -> bool:
    try:
        return int(value) > int(bound) if operator == "gt" else int(value) < int(bound)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Label terms and field terms together; the empty selector matches everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    @property
    def everything(self) -> bool:
        """True when there is nothing to check."""
        return not self.labels and not self.fields

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Tell whether an object with these labels and selectable fields is selected."""
        return all(term.matches(labels) for term in self.labels) and all(term.matches(fields) for term in self.fields)


EVERYTHING: Final = Selector()


def parse_selector(resource: Resource, label_text: str, field_text: str) -> Selector:
    """Parse the two query parameters.

    Raises:
        ApiError: 400 for bad syntax, and for a field the resource cannot be selected by.
    """
    if not label_text and not field_text:
        return EVERYTHING
    return Selector(labels=parse_labels(label_text), fields=_parse_fields(resource, field_text))


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Parse a label selector: equality, set-based and existence terms joined by commas.

    Raises:
        ApiError: 400 for bad syntax.
    """
    terms = (term.strip() for term in _COMMA_OUTSIDE_BRACKETS.split(text))
    return tuple(_parse_label_term(term) for term in terms if term)


def _parse_label_term(term: str) -> Requirement:
    if found := _SET.match(term):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(key=found["key"], operator=found["op"], values=values)
    if found := _COMPARE.match(term):
        operator = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[found["op"]]
        return Requirement(key=found["key"], operator=operator, values=frozenset([found["value"]]))
    if found := _EXISTS.match(term):
        return Requirement(key=found["key"], operator="absent" if found["absent"] else "exists")
    raise errors.bad_request(f'unable to parse requirement: "{term}" is no label selector term')


def _parse_fields(resource: Resource, text: str) -> tuple[Requirement, ...]:
    known = {"metadata.name", "metadata.namespace", *resource.selectable}
    terms = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        found = re.match(r"^(?P<key>[^=!]+?)\s*(?P<op>==|=|!=)\s*(?P<value>.*)$", term)
        if not found:
            raise errors.bad_request(f"invalid field selector: {text!r}: {term!r} has no = == or !=")
        if found["key"] not in known:
            raise errors.bad_request(f'field label not supported: "{found["key"]}" for kind {resource.kind}')
        operator = "notin" if found["op"] == "!=" else "in"
        terms.append(Requirement(key=found["key"], operator=operator, values=frozenset([found["value"]])))
    return tuple(terms)
