"""Names that all parts share: job ids, run states, capabilities, slice metrics, compute groups and their proofs."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Any, Final, NewType

from eth_hash.auto import keccak

from orchestrator.errors import InvalidInput

#: 22 characters of [A-Za-z0-9], made by the client.
JobId = NewType("JobId", str)

_JOB_ID = re.compile(r"[A-Za-z0-9]{22}")


def parse_job_id(text: Any, field: str = "job") -> JobId:
    """Check a job id from outside. Raises InvalidInput, naming `field`."""
    if not isinstance(text, str) or _JOB_ID.fullmatch(text) is None:
        raise InvalidInput(f"{field} {text!r:.60} is not a job id of 22 letters and digits")
    return JobId(text)


class RunStatus(enum.StrEnum):
    """State of a job, in the words that clients know."""

    NEW = "new"
    ESTIMATION = "estimation"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    CORRUPTED = "corrupted"


@dataclasses.dataclass(frozen=True, slots=True)
class SliceMetrics:
    """What one slice used, measured from outside the sandbox.

    `queued_share` is the part of its wall time in which it was ready to run and had no core; None where nobody can
    tell. It stays with the worker.
    """

    cpu_time_s: float
    wall_time_s: float
    bytes_in: int
    bytes_out: int
    peak_memory_bytes: int
    gpu_time_s: float = 0.0
    queued_share: float | None = None


class Capability(enum.IntFlag):
    """What a worker's engine offers and a job requires: the bit mask of dcp-client 5.6.1.

    A job asks for KVIN_V9 always; a Node evaluator offers FDLIBM | KVIN_V9 = 80.
    """

    V8 = 1
    SPIDERMONKEY = 2
    BROWSER = 4
    OFFSCREEN_CANVAS = 8
    FDLIBM = 16
    WEBGPU = 32
    KVIN_V9 = 64

    @classmethod
    def parse(cls, mask: Any, field: str) -> Capability:
        """A mask from outside; bits without a name are kept. Raises InvalidInput, naming `field`."""
        if type(mask) is not int or not 0 <= mask < 2**31:
            raise InvalidInput(f"{field} {mask!r:.40} is not a bit mask of capabilities")
        return cls(mask)


class Isolation(enum.StrEnum):
    """How strong the wall around a sandbox is, from weakest to strongest: the order of definition is the order of
    strength (docs/isolation.md)."""

    HARDENED = "runc-hardened"
    """The host's kernel under our lock-down; root of nothing, but the host's user 65534."""
    USERNS = "userns"
    """As before, in a user namespace: whoever gets out is a user that owns nothing."""
    GVISOR = "gvisor"
    """A kernel of its own in user space: the host's sees few system calls."""
    KATA = "kata"
    """A virtual machine per sandbox."""

    @property
    def rank(self) -> int:
        return list(Isolation).index(self)


#: The group that everybody may join, as an untouched `job.computeGroups` of dcp-client 5.6.1 sends it.
PUBLIC_GROUP: Final[dict[str, Any]] = {
    "opaqueId": "WHhetL7mj1w1mw1XV6dxyC",
    "id": 1,
    "name": "Public Compute Group (open access)",
    "joinKey": "public",
    "joinHash": "",
}


@dataclasses.dataclass(frozen=True, slots=True)
class GroupDescriptor:
    """How a client or a worker names a compute group: by its key, or by its id (a number only for the public group).

    `join_hash_hash` proves that the sender knows the key's secret, `join_address` that it knows the group's address.
    """

    join_key: str | None = None
    join_hash_hash: str | None = None
    id: int | None = None
    opaque_id: str | None = None
    join_address: str | None = None

    @property
    def is_public(self) -> bool:
        return self.id == 1 or self.join_key == "public" or self.opaque_id == PUBLIC_GROUP["opaqueId"]

    @property
    def name(self) -> str:
        """What people are told when there is no such group."""
        return self.join_key or self.opaque_id or str(self.id)

    def proves(self, secret_join_hash: str, dcpsid: str) -> bool:
        """Whether the sender knew the group's join hash, on the connection with this session id."""
        return self.join_hash_hash is not None and self.join_hash_hash == join_hash_hash(dcpsid, secret_join_hash)


def parse_group(descriptor: Any, field: str) -> GroupDescriptor:
    """A descriptor from outside (`cgArray[i]`, `workerComputeGroups[i]`). Raises InvalidInput, naming `field`."""
    if not isinstance(descriptor, dict):
        raise InvalidInput(f"{field} is not an object that describes a compute group")
    for name in ("joinKey", "joinHashHash", "opaqueId", "joinAddress"):
        value = descriptor.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{field}.{name} {value!r:.40} is not of type str")
    group_id, opaque_id = descriptor.get("id"), descriptor.get("opaqueId")
    if isinstance(group_id, str) and _JOB_ID.fullmatch(group_id):
        group_id, opaque_id = None, group_id
    elif group_id is not None and type(group_id) is not int:
        raise InvalidInput(f"{field}.id {group_id!r:.40} is not a group's id")
    if descriptor.get("joinKey") is None and group_id is None and opaque_id is None:
        raise InvalidInput(f"{field} names no group: it needs joinKey or id")
    return GroupDescriptor(
        descriptor.get("joinKey"), descriptor.get("joinHashHash"), group_id, opaque_id, descriptor.get("joinAddress")
    )


def eh1(text: str) -> str:
    """The salted hash of group proofs: keccak of the text as an Ethereum signed message."""
    data = text.encode()
    return "eh1-" + keccak(b"\x19Ethereum Signed Message:\n%d%b" % (len(data), data)).hex()


def join_hash(join_key: str, join_secret: str) -> str:
    """What a group keeps of its secret."""
    return eh1(f"{join_key} {join_secret}")


def join_hash_hash(dcpsid: str, group_join_hash: str) -> str:
    """What travels: the join hash bound to one connection by its session id."""
    return eh1(dcpsid + group_join_hash)


#: The public group has no secret; workers prove it with the text that JavaScript makes of that (observed with 5.6.1).
PUBLIC_JOIN_HASH: Final = join_hash("public", "undefined")
