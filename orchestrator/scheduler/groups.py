"""Pure: compute groups. Who may put jobs into one, whose workers serve it, what it costs and how much it takes.

A group is named by its key or by its id of 22 letters and digits. Its secret is known here only as the join hash, and
travels only as a hash that is bound to one connection.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.bank.amounts import UNITS, format_amount, parse_amount
from orchestrator.errors import InvalidInput, NotPermitted, OrchestratorError
from orchestrator.jobs.words import PUBLIC_GROUP, GroupDescriptor, parse_job_id
from orchestrator.scheduler.escrow import split
from orchestrator.wallet.addresses import checksum

PUBLIC_GROUP_ID: Final = str(PUBLIC_GROUP["opaqueId"])
MOST_TEXT = 255
"""characters of a key, name or description"""
MOST_LISTED = 1000
"""addresses on one of a group's lists"""
MOST_JOINED = 100
"""groups named in one request"""
_JOIN_HASH = re.compile(r"eh1-[0-9a-f]{64}")
_MOST_COUNT = 2**53


class Access(enum.StrEnum):
    """Whom a group lets in, besides its owner and whoever is on its list."""

    OWNER = "owner"
    """nobody"""
    JOIN = "join"
    """who proves to know the secret, or the id together with the join address"""


class Full(OrchestratorError):
    """A limit of the group stands against it."""

    code = "EGROUPLIMIT"


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What the owner of a group may change. Money in units of 10^-18 DCC; None is without a limit."""

    name: str = ""
    description: str = ""
    commission_rate: int = 0
    """part of each payment for a slice that goes to the group, in 10^-18; less than 10^18"""
    deploy_fee: int = 0
    """for a job that comes into its first groups"""
    add_job_fee: int = 0
    """each time that a job joins"""
    payment_address: str | None = None
    """who gets fees and commissions; the owner when None"""
    deploy_access: Access = Access.JOIN
    work_access: Access = Access.JOIN
    deployers: tuple[str, ...] = ()
    """identities that may put jobs in without a proof"""
    workers: tuple[str, ...] = ()
    """identities whose workers are in without a proof"""
    max_total_payment: int | None = None
    """the most that one job may pay in all"""
    max_concurrent_jobs: int | None = None
    max_concurrent_workers: int | None = None
    max_concurrent_sandboxes: int | None = None
    max_concurrent_cpus: int | None = None
    max_concurrent_gpus: int | None = None
    max_concurrent_escrow: int | None = None
    """the most that all jobs in the group may still have to pay"""

    def to_json(self) -> dict[str, Any]:
        """In the words of the official client, where it has them; without what was left as it is."""
        default = Terms()
        return {
            wire: field.write(getattr(self, field.name))
            for wire, field in _FIELDS.items()
            if getattr(self, field.name) != getattr(default, field.name)
        }

    @property
    def limits_workers(self) -> bool:
        limits = (
            self.max_concurrent_workers, self.max_concurrent_sandboxes, self.max_concurrent_cpus,
            self.max_concurrent_gpus,
        )  # fmt: skip
        return any(limit is not None for limit in limits)


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    id: str
    owner: str
    """the identity that made it"""
    terms: Terms = Terms()
    join_key: str | None = None
    join_hash: str | None = None
    join_address: str | None = None

    @property
    def label(self) -> str:
        """How people are told of it."""
        return self.join_key or self.terms.name or self.id

    @property
    def account(self) -> str:
        """Who gets its fees and commissions."""
        return self.terms.payment_address or self.owner

    def is_named_by(self, descriptor: GroupDescriptor) -> bool:
        if descriptor.join_key is not None:
            return descriptor.join_key == self.join_key
        return descriptor.opaque_id == self.id

    def describe(self) -> dict[str, Any]:
        """For its owner. The join hash is as good as the secret, and stays here."""
        keys = {"joinKey": self.join_key, "joinAddress": self.join_address}
        return {
            "id": self.id,
            "owner": self.owner,
            **{name: value for name, value in keys.items() if value is not None},
            "hasSecret": self.join_hash is not None,
            **self.terms.to_json(),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Commission:
    """What a group takes of each payment for slices that were handed out through it."""

    group: str
    account: str
    rate: int
    """in 10^-18"""

    def of(self, amount: int) -> int:
        """Units of a payment of `amount` units, rounded down."""
        return split(amount, self.rate)[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Knock:
    """Who asks to be let in: `addresses` are those whose keys signed the request or its message."""

    descriptor: GroupDescriptor
    addresses: frozenset[str]
    dcpsid: str


def may_deploy(group: Group, knock: Knock) -> bool:
    """Whether the sender may put its own jobs into the group."""
    return _admits(group, knock, group.terms.deploy_access, group.terms.deployers)


def may_work(group: Group, knock: Knock) -> bool:
    """Whether the sender's workers belong to the group."""
    return _admits(group, knock, group.terms.work_access, group.terms.workers)


def _admits(group: Group, knock: Knock, access: Access, listed: tuple[str, ...]) -> bool:
    if not group.is_named_by(knock.descriptor):
        return False
    if group.owner in knock.addresses or not knock.addresses.isdisjoint(listed):
        return True
    if access is Access.OWNER:
        return False
    if group.join_hash is not None and knock.descriptor.proves(group.join_hash, knock.dcpsid):
        return True
    return group.join_address is not None and group.join_address in (
        knock.addresses | {_address_or_none(knock.descriptor.join_address)}
    )


def require_owner(group: Group, addresses: frozenset[str]) -> None:
    """Raises `NotPermitted`."""
    if group.owner not in addresses:
        raise NotPermitted(f"compute group {group.label} belongs to somebody else; only its owner may do this")


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What is in a group already. Jobs that have not ended, and the workers that are present."""

    jobs: int = 0
    escrow: int = 0
    workers: int = 0
    sandboxes: int = 0
    cpus: float = 0.0
    gpus: float = 0.0

    def plus(self, other: Use) -> Use:
        return Use(*(one + two for one, two in zip(_counts(self), _counts(other), strict=True)))


def _counts(use: Use) -> tuple[Any, ...]:
    return (use.jobs, use.escrow, use.workers, use.sandboxes, use.cpus, use.gpus)


def check_job(group: Group, *, payment: int, before: Use) -> None:
    """Raises `Full` unless one more job that may still pay `payment` units fits in."""
    terms = group.terms
    if terms.max_total_payment is not None and payment > terms.max_total_payment:
        raise Full(
            f"compute group {group.label} takes jobs that pay at most {format_amount(terms.max_total_payment)} DCC in "
            f"all; this one may pay {format_amount(payment)} DCC"
        )
    if terms.max_concurrent_jobs is not None and before.jobs >= terms.max_concurrent_jobs:
        raise Full(
            f"compute group {group.label} takes {terms.max_concurrent_jobs} jobs at once and has {before.jobs}; wait "
            "for one to end"
        )
    if terms.max_concurrent_escrow is not None and before.escrow + payment > terms.max_concurrent_escrow:
        raise Full(
            f"the jobs in compute group {group.label} may hold {format_amount(terms.max_concurrent_escrow)} DCC "
            f"together; they hold {format_amount(before.escrow)} DCC, and this one would add {format_amount(payment)}"
        )


def has_room_for(group: Group, worker: Use, others: Use) -> bool:
    """Whether a worker fits in beside the other workers that are present."""
    terms, after = group.terms, others.plus(worker)
    return all(
        limit is None or used <= limit
        for limit, used in (
            (terms.max_concurrent_workers, after.workers),
            (terms.max_concurrent_sandboxes, after.sandboxes),
            (terms.max_concurrent_cpus, after.cpus),
            (terms.max_concurrent_gpus, after.gpus),
        )
    )


def pays_too_much(group: Group, payment: int) -> bool:
    """Whether a job has outgrown what the group takes: slices may be added after it joined."""
    return group.terms.max_total_payment is not None and payment > group.terms.max_total_payment


def route(job_groups: frozenset[str], worker_groups: frozenset[str], known: Mapping[str, Group]) -> str | None:
    """Through which of the groups that they have in common a worker gets a job: the one that takes the least.

    Groups that are not `known` take nothing, as the public one.
    """
    common = job_groups & worker_groups
    if not common:
        return None
    return min(common, key=lambda one: (_rate(known.get(one)), one != PUBLIC_GROUP_ID, one))


def commission(group: Group | None) -> Commission | None:
    """None when the group takes nothing."""
    if group is None or not group.terms.commission_rate:
        return None
    return Commission(group.id, group.account, group.terms.commission_rate)


def _rate(group: Group | None) -> int:
    return 0 if group is None else group.terms.commission_rate


def new_group(data: Mapping[str, Any], *, owner: str, new_id: str) -> Group:
    """Read the data of `createGroup`. Raises `InvalidInput`, naming the field."""
    join = data.get("joinDescriptor")
    if not isinstance(join, Mapping):
        raise InvalidInput("joinDescriptor must be an object {joinKey, joinHash} or {id, joinAddress}")
    key, group_id = join.get("joinKey"), join.get("id")
    if not ((key and join.get("joinHash")) or (group_id and join.get("joinAddress"))):
        raise InvalidInput("joinDescriptor needs joinKey and joinHash (of its secret), or id and joinAddress")
    if key is not None and (_text("joinKey", key) == PUBLIC_GROUP["joinKey"] or not key):
        raise InvalidInput(f"joinKey {key!r} is taken; choose another")
    texts = {name: data.get(name) for name in ("name", "description")}
    group = Group(
        id=new_id if group_id is None else parse_job_id(group_id, "joinDescriptor.id"),
        owner=owner,
        join_key=key,
        join_hash=_join_hash(join.get("joinHash")),
        join_address=_join_address(join.get("joinAddress")),
        terms=change_terms(change_terms(Terms(), texts, "data"), data.get("otherProperties") or {}, "otherProperties"),
    )
    if group.id == PUBLIC_GROUP_ID:
        raise InvalidInput(f"id {group.id} is that of the public group; choose another")
    return group


def changed_group(group: Group, data: Any) -> Group:
    """`group` with what the `newDescriptor` of `changeGroup` says. Raises `InvalidInput`, naming the field."""
    if not isinstance(data, Mapping):
        raise InvalidInput("newDescriptor must be an object")
    keys: dict[str, Any] = {}
    if data.get("joinHash") is not None:
        if group.join_key is None:
            raise InvalidInput("joinHash needs a joinKey, and this group was made without; make another group")
        keys["join_hash"] = _join_hash(data["joinHash"])
    if data.get("joinAddress") is not None:
        keys["join_address"] = _join_address(data["joinAddress"])
    rest = {name: value for name, value in data.items() if name not in ("joinHash", "joinAddress")}
    return dataclasses.replace(group, terms=change_terms(group.terms, rest, "newDescriptor"), **keys)


def change_terms(terms: Terms, changes: Any, field: str) -> Terms:
    """Raises `InvalidInput` for an unknown name or a bad value. null stands for no limit, or nothing."""
    if not isinstance(changes, Mapping):
        raise InvalidInput(f"{field} must be an object")
    values: dict[str, Any] = {}
    for wire, value in changes.items():
        if wire not in _FIELDS:
            raise InvalidInput(
                f"{field}.{wire!s:.40} is no property of a compute group; there are {', '.join(_FIELDS)}"
            )
        name, read = _FIELDS[wire].name, _FIELDS[wire].read
        values[name] = getattr(Terms(), name) if value is None else read(f"{field}.{wire}", value)
    return dataclasses.replace(terms, **values)


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise InvalidInput(f"{field} must be a text of at most {MOST_TEXT} characters")
    return value


def _join_hash(value: Any) -> str | None:
    if value is None:
        return None
    text = "".join(value.split()) if isinstance(value, str) else ""
    if not _JOIN_HASH.fullmatch(text):
        raise InvalidInput("joinHash must be eh1- and 64 hex digits, as `cg-utility hash` prints it")
    return text


def _join_address(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return checksum(value)
    except InvalidInput as error:
        raise InvalidInput(f"joinAddress: {error.message}") from error


def _address_or_none(value: str | None) -> str | None:
    try:
        return None if value is None else checksum(value)
    except InvalidInput:
        return None


def _rate_of(field: str, value: Any) -> int:
    rate = parse_amount(value, field=field)
    if rate >= UNITS:
        raise InvalidInput(f"{field} is {value!r:.40}; it must be at least 0 and less than 1")
    return rate


def _amount(field: str, value: Any) -> int:
    return parse_amount(value, field=field)


def _count(field: str, value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _MOST_COUNT:
        raise InvalidInput(f"{field} is {value!r:.40}; it must be a whole number ≥ 0")
    if number != int(number):
        raise InvalidInput(f"{field} is {value!r:.40}; it must be a whole number ≥ 0")
    return int(number)


def _access(field: str, value: Any) -> Access:
    try:
        return Access(value)
    except ValueError:
        raise InvalidInput(f"{field} is {value!r:.40}; it must be owner or join") from None


def _addresses(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_LISTED:
        raise InvalidInput(f"{field} must be a list of at most {MOST_LISTED} addresses")
    try:
        return tuple(dict.fromkeys(checksum(one) for one in value))
    except InvalidInput as error:
        raise InvalidInput(f"{field}: {error.message}") from error


def _address(field: str, value: Any) -> str:
    return _addresses(field, [value])[0]


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """A member of `Terms`, and how it travels."""

    name: str
    read: Callable[[str, Any], Any]
    """of the field's name for people, and the value; raises `InvalidInput`"""
    write: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


_FIELDS: Final[Mapping[str, _Field]] = {
    "name": _Field("name", _text, _same),
    "description": _Field("description", _text, _same),
    "commissionRate": _Field("commission_rate", _rate_of, format_amount),
    "deployFee": _Field("deploy_fee", _amount, format_amount),
    "deployAccess": _Field("deploy_access", _access, str),
    "addJobFee": _Field("add_job_fee", _amount, format_amount),
    "maxTotalPayment": _Field("max_total_payment", _amount, format_amount),
    "maxConcurrentJobs": _Field("max_concurrent_jobs", _count, _same),
    "maxConcurrentWorkers": _Field("max_concurrent_workers", _count, _same),
    "maxConcurrentSandboxes": _Field("max_concurrent_sandboxes", _count, _same),
    "maxConcurrentCPUs": _Field("max_concurrent_cpus", _count, _same),
    "maxConcurrentGPUs": _Field("max_concurrent_gpus", _count, _same),
    "maxConcurrentEscrow": _Field("max_concurrent_escrow", _amount, format_amount),
    # Ours.
    "paymentAddress": _Field("payment_address", _address, _same),
    "workAccess": _Field("work_access", _access, str),
    "deployers": _Field("deployers", _addresses, list),
    "workers": _Field("workers", _addresses, list),
}
