"""Deploys one job and follows it to its end.

Speaks the same operations as the official client, in the same order: `submit@5`, subscriptions, compute groups, the
upload of listed input, then events until `stop`; what is missing then is fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import decimal
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orchestrator import kvin
from orchestrator.compute.following import Following, JobEvent, JobFailed, services_of
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs import values, words
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.wallet.keys import PrivateKey

__all__ = ["PUBLIC", "Group", "Job", "JobEvent", "JobFailed", "Range", "Redundancy"]

_UPLOAD_BYTES = 1_000_000
_ALPHABET = string.ascii_letters + string.digits
_CANCEL_S = 5.0
"""the longest that a cancelled `exec` tries to cancel its job"""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `start` to `end`, both included, `step` apart."""

    start: float
    end: float
    step: float = 1

    def to_json(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "step": self.step}


@dataclasses.dataclass(frozen=True, slots=True)
class Redundancy:
    """`agree` workers must give the same result of a slice before it is accepted, and at most `of` are asked; each of
    them is paid whose result is not shown wrong. What is None is the Scheduler's choice: 2 of 4, if nobody changed it.

    `trusting`: the result of a worker is accepted alone that has given this owner many right ones, but for spot checks.
    Work functions must give the same result everywhere: see docs/redundancy.md.
    """

    agree: int | None = None
    of: int | None = None
    trusting: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A compute group, by its join key or its id. `join_hash` (see `orchestrator.jobs.words.join_hash`) proves that the
    deployer knows the secret; None for one that lets this identity in without."""

    key: str | None = None
    join_hash: str | None = None
    id: str | None = None

    def descriptor(self, dcpsid: str) -> dict[str, Any]:
        """What travels on the connection with this session id."""
        if self.key == words.PUBLIC_GROUP["joinKey"]:
            return words.PUBLIC_GROUP
        if self.key is None:
            return {"opaqueId": self.id}
        proof = {} if self.join_hash is None else {"joinHashHash": words.join_hash_hash(dcpsid, self.join_hash)}
        return {"joinKey": self.key, **proof}


PUBLIC: Final = Group(key=words.PUBLIC_GROUP["joinKey"])


class Job:
    """A job before and while it runs. An object deploys once.

    `work_function` is JavaScript source of a function of (input, *arguments). It offers `slice_payment` DCC per slice,
    or `market_multiple` times the market value (once, when neither is given). Only workers whose sandboxes have at
    least the level `isolation` and whose engines have what is in `requires` get slices, and only workers of `groups`;
    by default any worker does. With `redundancy` several workers must agree on each slice; by default the first result
    counts. Whoever is in these groups sees `name` and `description`.
    """

    def __init__(
        self,
        work_function: str,
        inputs: Range | Sequence[Any],
        arguments: Sequence[Any] = (),
        *,
        name: str = "",
        description: str = "",
        slice_payment: float | str | None = None,
        market_multiple: float | str | None = None,
        requires: words.Capability | None = None,
        isolation: words.Isolation | None = None,
        redundancy: Redundancy | None = None,
        groups: Sequence[Group] = (PUBLIC,),
    ) -> None:
        if slice_payment is not None and market_multiple is not None:
            raise InvalidInput("give slice_payment or market_multiple, not both")
        self.id = "".join(secrets.choice(_ALPHABET) for _ in range(22))
        self.work_function = work_function
        self.inputs = inputs
        self.arguments = tuple(arguments)
        self.name = name or f"Ad-Hoc Job{self.id[-6:]}"
        self.description = description
        self.slice_payment = slice_payment
        self.market_multiple = market_multiple
        self.requires = words.Capability(0) if requires is None else requires
        self.isolation = isolation
        self.redundancy = redundancy
        self.groups = tuple(groups)
        self.confidence: Mapping[str, Any] | None = None
        """what the redundancy costs, as the Scheduler told when the job was deployed: `agree`, `of`, `trusting`;
        `opinions` {least, expected, most} paid per slice; `perSlice` and `total` (of `slices` slices), the same in DCC
        as decimal text"""
        self.is_deployed = False
        """the Scheduler has the job with all its inputs: it goes on without us"""
        self._following: Following | None = None

    @property
    def results(self) -> dict[int, Any]:
        """What has come so far, by slice."""
        return {} if self._following is None else self._following.results

    async def quote(self, client: DcpClient, config: Mapping[str, Any], account: PrivateKey) -> Mapping[str, Any]:
        """What the job would cost if it was deployed now. Nothing is deployed, held or kept.

        Amounts are decimal text in DCC: `slicePrice`; `total` {least, expected, most} of its `slices`; `held` {first,
        most}, what is set aside at the deploy and when all inputs are there; `fees`, what its groups are paid at once,
        beside that; `available`, what `account` has; and with redundancy what `confidence` has after the deploy, as
        `redundancy`. `groups` tells of each the `fee`, and what of a slice's price is its `commission` and what is
        `workerPay`. The market value may move until the deploy.

        Raises RemoteError: ENOSYS for a Scheduler that is not ours, EINVAL for what it would refuse, and what a group
        would that does not take the job: ENOENT, EGROUPLIMIT, EPERM.
        """
        submit = client.connect(services_of(config)["jobSubmit"])
        wish = self._terms() | {"paymentAccount": account.address}
        if not isinstance(self.inputs, Range):
            wish["slices"] = len(self.inputs)
        try:
            wish["cgArray"] = await self._knock(submit)
            answer: Mapping[str, Any] = await submit.request("quoteJob", wish, authorize=[account])
            return answer
        finally:
            await submit.close()

    async def exec(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: PrivateKey,
        on_event: Callable[[JobEvent], None] = lambda _event: None,
        *,
        outlives: bool = False,
    ) -> list[Any]:
        """Deploy, wait for the end, and return the results in slice order.

        `config` is the Scheduler's (see `orchestrator.protocol.config.fetch_config`); `account` pays. A slice without a
        result is None.
        Raises JobFailed when the Scheduler cancels the job, or no compute group takes it; ConnectionLost when a session
        ends while it is being deployed: the job may run all the same. Under cancellation the job is cancelled at the
        Scheduler; with `outlives` only while it has not got all its inputs.
        """
        submit = client.connect(services_of(config)["jobSubmit"])
        try:
            await self._submit(submit, account, on_event)
            async with Following(client, config, self.id, on_event) as self._following:
                await self._complete(client, config, submit, self._following.result_service)
                return await self._following.end()
        except asyncio.CancelledError:
            if not (outlives and self.is_deployed):
                await self._cancel(submit, account, "interrupted")
            raise
        finally:
            await submit.close()

    async def deploy(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: PrivateKey,
        on_event: Callable[[JobEvent], None] = lambda _event: None,
    ) -> None:
        """Deploy with all inputs, and do not wait: `Following` hears of the job later. Raises as `exec` does; what is
        cancelled before the job is complete cancels it."""
        services = services_of(config)
        submit, results = client.connect(services["jobSubmit"]), client.connect(services["resultSubmitter"])
        try:
            await self._submit(submit, account, on_event)
            await self._complete(client, config, submit, results)
        except asyncio.CancelledError:
            await self._cancel(submit, account, "interrupted")
            raise
        finally:
            await submit.close()
            await results.close()

    async def add_funds(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: PrivateKey,
        amount: decimal.Decimal | int | float | str | None = None,
        *,
        transfer_id: str | None = None,
    ) -> Mapping[str, Any]:
        """Put money into the job's hold, out of any account: `amount` in DCC, of which whole slices are taken, or
        what the job lacks. A job that is paused (event `nofunds`) goes on. May be called while `exec` waits.

        When no answer comes, nothing is known. With a `transfer_id` of your own (1 to 100 characters) call it again:
        the same one moves nothing more. Without one, each call is a payment of its own.

        The answer tells `added`, `escrow` (what the job holds now), `cost` and `fundsRequired` (what it still lacks) as
        decimal text in DCC. Raises RemoteError with the Scheduler's code: ENOFUNDS, EINVAL for less than one slice,
        ECLOSED when the job has ended.
        """
        transfer_id = transfer_id if transfer_id is not None else secrets.token_hex(16)
        wish: dict[str, Any] = {"job": self.id, "account": account.address, "transferId": transfer_id}
        if amount is not None:
            wish["amount"] = str(amount)
        submit = client.connect(services_of(config)["jobSubmit"])
        try:
            answer: Mapping[str, Any] = await submit.request("addFunds", wish, authorize=[account])
            return answer
        finally:
            await submit.close()

    # --- the steps of a deploy

    async def _submit(
        self, submit: ClientConnection, account: PrivateKey, on_event: Callable[[JobEvent], None]
    ) -> None:
        """Raises `JobFailed` when the Scheduler knows nothing of what was asked for."""
        answer = await submit.request("submit@5", self._submission(account), authorize=[account])
        told = answer.get("redundancy") if isinstance(answer, Mapping) else None
        if isinstance(told, Mapping):
            self.confidence = told
            on_event(JobEvent("confidence", told))
        elif self.redundancy is not None:
            await submit.request("cancelJob", {"job": self.id, "reason": "the Scheduler has no redundancy"})
            raise JobFailed("this Scheduler has no redundancy: it accepts the first result of a slice", code="ENOSYS")

    async def _complete(
        self, client: DcpClient, config: Mapping[str, Any], submit: ClientConnection, results: ClientConnection
    ) -> None:
        await self._join_groups(client, services_of(config)["computeGroups"], submit)
        if not isinstance(self.inputs, Range):
            await self._upload(submit)
            await results.request("closeJob", {"job": self.id})
        self.is_deployed = True

    async def _cancel(self, submit: ClientConnection, account: PrivateKey, reason: str) -> None:
        with contextlib.suppress(OrchestratorError, TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                wish = {"job": self.id, "owner": account.address, "reason": reason}
                await submit.request("cancelJob", wish)

    async def _join_groups(self, client: DcpClient, url: str, submit: ClientConnection) -> None:
        """Raises `JobFailed` when one does not take the job, which is cancelled then."""
        groups = client.connect(url)
        try:
            answer = await groups.request("addJobToGroups", {"job": self.id, "cgArray": await self._knock(groups)})
        finally:
            await groups.close()
        refused = answer.get("failed") or [] if answer.get("success") else [answer]
        if refused:
            await submit.request("cancelJob", {"job": self.id, "reason": "a compute group does not take it"})
            raise JobFailed(f"job {self.id} is not deployed: {refused[0]['message']}", code=refused[0]["code"])

    async def _knock(self, connection: ClientConnection) -> list[dict[str, Any]]:
        """The groups of the job, with proofs for this connection."""
        if any(group.join_hash is not None for group in self.groups):
            await connection.request("keepalive", {})  # the proofs need a session
        return [group.descriptor(connection.dcpsid or "") for group in self.groups]

    def _terms(self) -> dict[str, Any]:
        """What decides about the price."""
        paid, multiple = self.slice_payment, self.market_multiple
        data: dict[str, Any] = {
            "mvMultSlicePayment": 0 if paid is not None else 1 if multiple is None else multiple,
            "absoluteSlicePayment": 0 if paid is None else paid,
        }
        if isinstance(self.inputs, Range):
            data["dataRange"] = self.inputs.to_json()
        if self.redundancy is not None:
            data["redundancy"] = self.redundancy.to_json()
        return data

    def _submission(self, account: PrivateKey) -> dict[str, Any]:
        data = self._terms() | {
            "paymentAccount": account.address,
            "workFunctionURI": values.encode_data_uri(self.work_function, ""),
            "job": self.id,
            "requirePath": [],
            "dependencies": [],
            "requirements": int(words.Capability.KVIN_V9 | self.requires),
            "description": self.description,
            "name": self.name,
            "link": "",
            "isOpen": False,
            "worktime": {"name": "map-basic", "version": "^1.0.0", "custom": False},
            "marshaledArguments": kvin.marshal([_argument(value) for value in self.arguments]),
        }
        if self.isolation is not None:
            data["isolation"] = str(self.isolation)
        return data

    async def _upload(self, submit: ClientConnection) -> None:
        """Send the listed input in piles of about a megabyte."""
        pile: list[Any] = []
        size = 0
        for value in self.inputs if not isinstance(self.inputs, Range) else ():
            pile.append(value)
            size += len(kvin.stringify(value))
            if size >= _UPLOAD_BYTES:
                await submit.request("addSliceData", {"job": self.id, "dataValues": kvin.marshal(pile)})
                pile, size = [], 0
        if pile:
            await submit.request("addSliceData", {"job": self.id, "dataValues": kvin.marshal(pile)})


def _argument(value: Any) -> dict[str, str]:
    return {"string": kvin.stringify(value), "method": "kvin", "MIMEType": "application/x-kvin"}
