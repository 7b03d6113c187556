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
from typing import Any

from orchestrator import kvin
from orchestrator.errors import Fault, OrchestratorError
from orchestrator.jobs import values, words
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.wallet.keys import PrivateKey

_LABELS = ("result", "status", "console", "error", "noprogress", "custom")
_UPLOAD_BYTES = 1_000_000
_ALPHABET = string.ascii_letters + string.digits


class JobFailed(OrchestratorError):
    """The Scheduler stopped the job before it was finished. `code` is the Scheduler's."""

    code = "ECANCELLED"
    fault = Fault.JOB


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
    them is paid whose result is not shown wrong. What is None is the Scheduler's choice: 2 of 3, if nobody changed it.

    `trusting`: the result of a worker is accepted alone that has given this owner many right ones, but for spot checks.
    Work functions must give the same result everywhere: see docs/redundancy.md.
    """

    agree: int | None = None
    of: int | None = None
    trusting: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class JobEvent:
    """What the Scheduler tells a job's owner. `data` is as on the wire; `value` is the decoded result of `result`.

    The first event of a job with redundancy is `confidence`: what that costs.
    """

    label: str
    data: Mapping[str, Any]
    value: Any = None


class Job:
    """A job before and while it runs. An object deploys once.

    `work_function` is JavaScript source of a function of (input, *arguments). Only workers whose sandboxes have at
    least the level `isolation` get slices; by default any worker does. With `redundancy` several workers must agree on
    each slice; by default the first result counts.
    """

    def __init__(
        self,
        work_function: str,
        inputs: Range | Sequence[Any],
        arguments: Sequence[Any] = (),
        *,
        name: str = "",
        slice_payment: float | None = None,
        isolation: words.Isolation | None = None,
        redundancy: Redundancy | None = None,
    ) -> None:
        self.id = "".join(secrets.choice(_ALPHABET) for _ in range(22))
        self.work_function = work_function
        self.inputs = inputs
        self.arguments = tuple(arguments)
        self.name = name or f"Ad-Hoc Job{self.id[-6:]}"
        self.slice_payment = slice_payment
        self.isolation = isolation
        self.redundancy = redundancy
        self.confidence: Mapping[str, Any] | None = None
        """what the redundancy costs, as the Scheduler told when the job was deployed: `agree`, `of`, `trusting`;
        `opinions` {least, expected, most} paid per slice; `perSlice` and `total` (of `slices` slices), the same in DCC
        as decimal text"""
        self.results: dict[int, Any] = {}
        self._stopped: asyncio.Future[Mapping[str, Any]] | None = None
        self._tokens: dict[str, str] = {}

    async def exec(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: PrivateKey,
        on_event: Callable[[JobEvent], None] = lambda _event: None,
    ) -> list[Any]:
        """Deploy, wait for the end, and return the results in slice order.

        `config` is the Scheduler's (see `orchestrator.protocol.config.fetch_config`); `account` pays. A slice without a
        result is None.
        Raises JobFailed when the Scheduler cancels the job, ConnectionLost when a session ends while it is being
        deployed: the job may run all the same. Under cancellation the job is cancelled at the Scheduler.
        """
        services = {name: entry["location"] for name, entry in config["scheduler"]["services"].items()}
        self._stopped = asyncio.get_running_loop().create_future()
        submit = client.connect(services["jobSubmit"])
        try:
            answer = await submit.request("submit@5", self._submission(account), authorize=[account])
            await self._deployed(answer, submit, on_event)
            stop = await self._follow(client, services, submit, on_event)
        except asyncio.CancelledError:
            with contextlib.suppress(OrchestratorError, TimeoutError):
                async with asyncio.timeout(5):
                    reason = {"job": self.id, "owner": account.address, "reason": "interrupted"}
                    await submit.request("cancelJob", reason)
            raise
        finally:
            await submit.close()
        if stop.get("runStatus") != words.RunStatus.FINISHED:
            raise JobFailed(f"job {self.id} was stopped: {stop.get('reason')}", code=stop.get("code"))
        return [self.results.get(number) for number in range(1, int(stop.get("sliceCount", len(self.results))) + 1)]

    async def _deployed(self, answer: Any, submit: ClientConnection, on_event: Callable[[JobEvent], None]) -> None:
        """Raises `JobFailed` when the Scheduler knows nothing of what was asked for."""
        told = answer.get("redundancy") if isinstance(answer, Mapping) else None
        if isinstance(told, Mapping):
            self.confidence = told
            on_event(JobEvent("confidence", told))
        elif self.redundancy is not None:
            await submit.request("cancelJob", {"job": self.id, "reason": "the Scheduler has no redundancy"})
            raise JobFailed("this Scheduler has no redundancy: it accepts the first result of a slice", code="ENOSYS")

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
        submit = client.connect(config["scheduler"]["services"]["jobSubmit"]["location"])
        try:
            answer: Mapping[str, Any] = await submit.request("addFunds", wish, authorize=[account])
            return answer
        finally:
            await submit.close()

    async def _follow(
        self,
        client: DcpClient,
        services: Mapping[str, str],
        submit: ClientConnection,
        on_event: Callable[[JobEvent], None],
    ) -> Mapping[str, Any]:
        assert self._stopped is not None

        def hear(operation: str, data: Any) -> str:
            if operation == "event":
                self._hear(data["event"]["data"], on_event)
            return "success"

        router = client.connect(services["eventRouter"], on_word=hear)
        results = client.connect(services["resultSubmitter"])
        session_ended = asyncio.Event()
        router.on_session_end(lambda _error: session_ended.set())
        try:
            await self._subscribe(router)
            async with asyncio.TaskGroup() as group:
                resubscribing = group.create_task(self._subscribe_again(router, session_ended))
                await self._join_public_group(client, services["computeGroups"])
                if not isinstance(self.inputs, Range):
                    await self._upload(submit)
                    await results.request("closeJob", {"job": self.id})
                stop = await self._stopped
                resubscribing.cancel()
            if stop.get("runStatus") == words.RunStatus.FINISHED:
                await self._fetch_missing(results, client.identity, int(stop["sliceCount"]))
            return stop
        except* OrchestratorError as group:  # what the caller is to catch comes alone
            raise group.exceptions[0] from None
        finally:
            await router.close()
            await results.close()

    async def _subscribe(self, router: ClientConnection) -> None:
        await router.request(
            "subscribeMany",
            {
                "reliableEvents": ["stop", "nofunds"],
                "optionalEvents": list(_LABELS),
                "options": {"filter": {"job": self.id}},
            },
        )

    async def _subscribe_again(self, router: ClientConnection, session_ended: asyncio.Event) -> None:
        """A Scheduler that was restarted has forgotten the session, and with it who wants to hear."""
        while True:
            await session_ended.wait()
            session_ended.clear()
            with contextlib.suppress(ConnectionClosed):
                await self._subscribe(router)

    async def _join_public_group(self, client: DcpClient, url: str) -> None:
        groups = client.connect(url)
        try:
            await groups.request("addJobToGroups", {"job": self.id, "cgArray": [words.PUBLIC_GROUP]})
        finally:
            await groups.close()

    def _submission(self, account: PrivateKey) -> dict[str, Any]:
        offer = self.slice_payment
        data: dict[str, Any] = {
            "paymentAccount": account.address,
            "workFunctionURI": values.encode_data_uri(self.work_function, ""),
            "job": self.id,
            "mvMultSlicePayment": 1 if offer is None else 0,
            "absoluteSlicePayment": 0 if offer is None else offer,
            "requirePath": [],
            "dependencies": [],
            "requirements": int(words.Capability.KVIN_V9),
            "description": "",
            "name": self.name,
            "link": "",
            "isOpen": False,
            "worktime": {"name": "map-basic", "version": "^1.0.0", "custom": False},
            "marshaledArguments": kvin.marshal([_argument(value) for value in self.arguments]),
        }
        if isinstance(self.inputs, Range):
            data["dataRange"] = self.inputs.to_json()
        if self.isolation is not None:
            data["isolation"] = str(self.isolation)
        if self.redundancy is not None:
            data["redundancy"] = self.redundancy.to_json()
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

    def _hear(self, data: Mapping[str, Any], on_event: Callable[[JobEvent], None]) -> None:
        label = data["eventName"]
        value = None
        if label == "result":
            number = int(data["sliceNumber"])
            if number in self.results:
                return  # sent again, because our acknowledgement was lost
            value = self.results[number] = _decode(data["result"]["result"])
        on_event(JobEvent(label, data, value))
        if label == "stop" and self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(data)

    async def _fetch_missing(self, results: ClientConnection, identity: PrivateKey, count: int) -> None:
        missing = [number for number in range(1, count + 1) if number not in self.results]
        if not missing:
            return
        found = await results.request(
            "fetchResult", {"job": self.id, "owner": identity.address, "range": missing}, authorize=[identity]
        )
        for entry in found:
            if entry:
                self.results[int(entry["slice"])] = _decode(values.decode_uri_component(entry["value"]))


def _argument(value: Any) -> dict[str, str]:
    return {"string": kvin.stringify(value), "method": "kvin", "MIMEType": "application/x-kvin"}


def _decode(uri: str) -> Any:
    """The value behind a result URI. URLs are left as they are."""
    return values.value_of_uri(uri) if uri.startswith("data:") else uri
