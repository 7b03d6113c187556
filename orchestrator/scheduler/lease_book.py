"""Leases as workers prove them: the authorizationMessage that goes out with a task and comes back with every report.

The message is signed by the Scheduler for whoever wants to check it. The Scheduler itself compares the fencing token
with the lease's row, which survives a restart; rows never change in that part, so they are kept in memory.
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.bank.amounts import format_amount
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.protocol import js_json
from orchestrator.protocol.signing import signature_object
from orchestrator.scheduler.groups import Commission
from orchestrator.scheduler.store import leases
from orchestrator.scheduler.store.leases import Lease
from orchestrator.wallet.keys import PrivateKey

KEPT = 20_000


class LeaseBook:
    def __init__(self) -> None:
        self._known: collections.OrderedDict[int, Lease] = collections.OrderedDict()

    def missing(self, ids: Iterable[int]) -> set[int]:
        return {lease_id for lease_id in ids if lease_id not in self._known}

    async def load(self, tx: Transaction, ids: Iterable[int]) -> None:
        """Read rows that are not in memory; ids without a row stay unknown."""
        wanted = self.missing(ids)
        if wanted:
            for lease in (await leases.load(tx, wanted)).values():
                self.keep(lease)

    def check(self, claim: Claim, peer: str) -> Lease | None:
        """The lease that the claim proves; None when its row is long gone. Raises `NotPermitted` when the token is
        wrong or belongs to somebody else."""
        lease = self._known.get(claim.lease)
        if lease is None:
            return None
        if lease.peer != peer or not secrets.compare_digest(lease.token.encode(), claim.token.encode()):
            raise NotPermitted("the authorizationMessage does not belong to this worker's lease")
        return lease

    def cached(self, lease_id: int) -> Lease | None:
        return self._known.get(lease_id)

    def renewed(self, lease: Lease, expires_at: float) -> None:
        self.keep(dataclasses.replace(lease, expires_at=expires_at))

    def forget(self, ids: Iterable[int]) -> None:
        for lease_id in ids:
            self._known.pop(lease_id, None)

    def keep(self, lease: Lease) -> None:
        self._known[lease.id] = lease
        self._known.move_to_end(lease.id)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)


class Claim:
    """The part of an authorizationMessage that matters to us."""

    __slots__ = ("lease", "token")

    def __init__(self, lease: int, token: str) -> None:
        self.lease = lease
        self.token = token


def read_claim(message: Any) -> Claim:
    """Raises `InvalidInput` when the message has not the shape of one of ours."""
    auth = message.get("auth") if isinstance(message, Mapping) else None
    fence = auth.get("lease") if isinstance(auth, Mapping) else None
    if isinstance(fence, Mapping):
        lease, token = fence.get("id"), fence.get("token")
        if isinstance(lease, int) and not isinstance(lease, bool) and 0 < lease < 2**63 and isinstance(token, str):
            return Claim(lease, token)
    raise InvalidInput("authorizationMessage is missing or not one that this scheduler made")


MOST_NAMED = 32


def auth_body(
    lease: Lease, slices: Mapping[str, Sequence[int]], commissions: Mapping[str, Commission], scheduler_id: str
) -> dict[str, Any]:
    """The signed part. `authSlices` names the slices of each job, at most the first 32: the message comes back with
    every single report, and workers only show that list to their users (dcp-client 5.6.1)."""
    return {
        "workerId": lease.worker,
        "authSlices": {job: list(numbers[:MOST_NAMED]) for job, numbers in slices.items()},
        "schedulerId": scheduler_id,
        "jobCommissions": {
            job: {"rate": format_amount(one.rate), "account": one.account} for job, one in commissions.items()
        },
        "lease": {"id": lease.id, "token": lease.token},
    }


def authorization(identity: PrivateKey, auth: Mapping[str, Any]) -> dict[str, Any]:
    """The authorizationMessage: what a worker shows when it reports on these slices."""
    signature = signature_object(identity, js_json.dumps(auth))
    return {"owner": identity.address, "signature": signature, "auth": auth}
