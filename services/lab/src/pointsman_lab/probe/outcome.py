# SPDX-License-Identifier: Apache-2.0
"""What came of a probe, and of traffic: the values both ends of the prober exchange. Pure."""

import enum
from collections import Counter

import msgspec


class Outcome(enum.StrEnum):
    """How one probe ended. The words are the API's for what the dataplane did."""

    ANSWER = "answer"
    REFUSED = "refused"  # REJECT: ICMP port unreachable, or a TCP reset: nobody listens
    TIMEOUT = "timeout"  # DROP, or lost
    UNREACHABLE = "unreachable"  # no route, host unreachable, prohibited
    RESET = "reset"  # an established connection was torn down
    ERROR = "error"  # anything else; see errno


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the echo server said: who it is and whom it saw."""

    pod: str
    namespace: str
    node: str
    protocol: str
    peer: str
    peer_port: int
    local: str
    local_port: int
    request: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One result. `at_seconds` is CLOCK_MONOTONIC, the same in every process of the machine."""

    outcome: Outcome
    at_seconds: float
    latency_seconds: float
    errno: int = 0
    answer: Answer | None = None

    @property
    def pod(self) -> str | None:
        """The name of the pod that answered."""
        return self.answer.pod if self.answer else None


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`count` probes from a place to ip:port, `concurrency` at once, each a new connection or UDP socket."""

    place: str
    ip: str
    port: int
    protocol: str = "TCP"
    timeout_seconds: float = 1.0
    count: int = 1
    concurrency: int = 16
    source: str | None = None
    text: str = "?"


class TrafficRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Continuous traffic: `workers` clients, each asking every `interval_seconds`.

    With `persistent` each worker keeps one connection as long as it holds, else every request is a new one.
    """

    place: str
    ip: str
    port: int
    protocol: str = "TCP"
    timeout_seconds: float = 5.0
    workers: int = 4
    interval_seconds: float = 0.01
    source: str | None = None
    persistent: bool = False


class TrafficReport(msgspec.Struct, frozen=True, kw_only=True):
    """What traffic has seen so far. Instants are CLOCK_MONOTONIC seconds; `failures` holds the first 50."""

    attempts: int
    answered: int
    by_pod: dict[str, int]
    first_seen: dict[str, float]
    last_seen: dict[str, float]
    failures: list[Probe]
    failed: int
    latency_seconds_p50: float
    latency_seconds_p99: float
    latency_seconds_max: float
    running: bool


def count_by_pod(probes: "list[Probe] | tuple[Probe, ...]") -> Counter[str]:
    """How often each pod answered; what was not answered counts under its outcome."""
    return Counter(probe.pod or f"({probe.outcome})" for probe in probes)
