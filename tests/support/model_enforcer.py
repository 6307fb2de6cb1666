# SPDX-License-Identifier: Apache-2.0
"""An enforcer in memory that follows StreamNodePlan to the letter: reads real bytes and computes digests itself.

It shares no code with the planner or the real enforcer beyond the stubs and the digest definition, so it can judge
both.
"""

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.digest import BUCKET_COUNT, bucket_of, plan_digest
from pointsman_model.names import ServiceKey

_MASK = (1 << 64) - 1
MESSAGE_BYTES_MAX = 1 << 20


class ModelEnforcer:
    """Holds one node's plan; survives reconnects."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.plans: dict[ServiceKey, bytes] = {}
        self.facts: pb.NodeFacts | None = None
        self.position = pb.Position()
        self.in_sync = False
        self.keys_received: list[ServiceKey] = []
        """Every key of an update, in order of arrival, over the enforcer's whole life."""
        self.origins: list[pb.ChangeOrigin] = []
        self.last_digest_wanted = 0
        self._parts: list[pb.Transaction] = []
        self.nonce = 0
        """Of the last transaction seen on this stream."""

    @property
    def buckets(self) -> list[int]:
        """Bucket digests of the plan held."""
        sums = [0] * BUCKET_COUNT
        for key, plan in self.plans.items():
            sums[bucket_of(key)] = (sums[bucket_of(key)] + plan_digest(key, plan)) & _MASK
        return sums

    @property
    def digest(self) -> int:
        """Digest of the plan held."""
        return sum(self.buckets) & _MASK

    def hello(self) -> pb.StreamNodePlanRequest:
        """The first message of a new stream."""
        self._parts, self.nonce, self.in_sync = [], 0, False
        hello = pb.Hello(node_name=self.node, instance_id="model", bucket_digests=self.buckets)
        return pb.StreamNodePlanRequest(hello=hello)

    def receive(self, data: bytes) -> int | None:
        """Take in one message, checking every rule that shows here; the nonce when it completed a transaction."""
        message = pb.StreamNodePlanResponse.FromString(data)
        fields = [field.name for field, _ in message.ListFields()]
        assert len(fields) == 1, f"exactly one field is set, got {fields}"
        if not message.HasField("transaction"):
            return None
        part = message.transaction
        assert len(data) <= MESSAGE_BYTES_MAX
        if self._parts:
            assert part.nonce == self.nonce, "parts of different transactions interleave"
        else:
            assert part.nonce > self.nonce, "nonces grow"
            self.nonce = part.nonce
        assert part.part == len(self._parts)
        self._parts.append(part)
        if not part.commit:
            return None
        parts, self._parts = self._parts, []
        self._commit(parts)
        return part.nonce

    def _commit(self, parts: list[pb.Transaction]) -> None:
        updates = [(ServiceKey(u.name.namespace, u.name.name), u.plan) for part in parts for u in part.updates]
        removals = [ServiceKey(name.namespace, name.name) for part in parts for name in part.removals]
        keys = [key for key, _ in updates] + removals
        assert len(keys) == len(set(keys)), "a key appears at most once in a transaction"
        replaced = {bucket for part in parts for bucket in part.replaced_buckets}
        if any(part.replaces_all for part in parts):
            self.plans = {}
        self.plans = {key: plan for key, plan in self.plans.items() if bucket_of(key) not in replaced}
        for key in removals:
            self.plans.pop(key, None)
        self.plans.update(updates)
        self.keys_received += [key for key, _ in updates]
        for part in parts:
            assert len(part.origins) <= 64
            self.origins += part.origins
            if part.HasField("node"):
                self.facts = part.node
        last = parts[-1]
        self.in_sync = self.in_sync or last.in_sync
        self.position = last.position
        self.last_digest_wanted = last.digest

    @property
    def agrees(self) -> bool:
        """Whether the plan held has the digest that the last commit asked for."""
        return self.digest == self.last_digest_wanted

    def ack(self, nonce: int) -> pb.StreamNodePlanRequest:
        """PROGRAMMED."""
        return pb.StreamNodePlanRequest(
            ack=pb.Ack(
                nonce=nonce,
                level=pb.ACK_LEVEL_PROGRAMMED,
                position=self.position,
                digest=self.digest,
                programmed_digest=self.digest,
            )
        )

    def resync(self) -> pb.StreamNodePlanRequest:
        """Ask for what differs."""
        return pb.StreamNodePlanRequest(resync=pb.Resync(bucket_digests=self.buckets))

    def heartbeat(self) -> pb.StreamNodePlanRequest:
        """Proof of life."""
        return pb.StreamNodePlanRequest(heartbeat=pb.Heartbeat(digest=self.digest))

    def nack(self, nonce: int, key: ServiceKey, reason: str) -> pb.StreamNodePlanRequest:
        """One service refused."""
        failure = pb.ServiceFailure(stage=pb.ServiceFailure.STAGE_APPLY, message=reason)
        failure.service.namespace, failure.service.name = key
        return pb.StreamNodePlanRequest(nack=pb.Nack(nonce=nonce, failures=[failure]))
