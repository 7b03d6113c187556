"""Pure: a signed receipt per slice: what was computed for whom, under which limits, and what the kernel charged.

A receipt is one flat JSON object with two objects in it (`limits`, `metrics`). Its `signature` is Ethereum's
`personal_sign` (EIP-191) by the worker's identity over the canonical text of everything else: keys in order, no white
space, whole numbers only (RFC 8785). `input` and `output` are keccak-256 of what went into the sandbox
(the datum's URI as text) and of what came out of it (the result's text as it was sent), both in UTF-8.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import SliceMetrics
from orchestrator.protocol import js_json
from orchestrator.wallet import addresses, keys
from orchestrator.worker.limits import SandboxLimits, SliceLimits

FORMAT: Final = "dcp-orchestrator receipt 1"
_HASH: Final = re.compile(r"0x[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"0x([0-9a-f]{64})([0-9a-f]{64})(1b|1c)")
_NS: Final = 1_000_000_000
_MOST_TEXT: Final = 512
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class _Texts(NamedTuple):
    head: str
    isolation: str
    limits: str
    payee: str
    worker: str


@dataclass(frozen=True)
class Terms:
    """What all receipts of one run of a worker say alike."""

    worker: str
    worker_id: str
    payment_address: str
    image: str
    """The image's digest."""
    limits: Mapping[str, int | None]
    isolation: str | None = None
    """The level of isolation (see `isolation`); None leaves the field out, as receipts of before have it."""

    @functools.cached_property
    def texts(self) -> _Texts:
        """Their parts of the canonical text."""
        string = js_json.string
        return _Texts(
            head=f'{{"format":{string(FORMAT)},"image":{string(self.image)}',
            isolation="" if self.isolation is None else f'"isolation":{string(self.isolation)},',
            limits=f'"limits":{js_json.dumps(_sorted(self.limits))}',
            payee=f'"paymentAddress":{string(self.payment_address)}',
            worker=f'"worker":{string(self.worker)},"workerId":{string(self.worker_id)}',
        )


def limits_in_force(kernel: SandboxLimits, slices: SliceLimits) -> dict[str, int | None]:
    """In the order of a receipt. Whole numbers, like all of a receipt: every reader of JSON prints those alike."""

    def milliseconds(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    return {
        "cpuMillis": round(kernel.cpus * 1000),
        "memoryBytes": kernel.memory_bytes,
        "pids": kernel.pids,
        "progressTimeoutMs": milliseconds(slices.progress_timeout_s),
        "sliceTimeoutMs": milliseconds(slices.slice_timeout_s),
        "swapBytes": kernel.swap_bytes,
    }


@dataclass(frozen=True, slots=True)
class Delivery:
    """One slice that is about to be reported. `threw`: its output is what the work function threw."""

    job: str
    slice: int
    input: str
    output: str
    threw: bool
    metrics: SliceMetrics


def hash_of(text: str) -> str:
    """keccak-256 of a text in UTF-8 (a lone surrogate as its three bytes)."""
    return "0x" + keys.keccak256(text.encode("utf-8", "surrogatepass")).hex()


@dataclass(frozen=True, slots=True)
class Issued:
    """`line` is the receipt as JSON text, without a line feed."""

    receipt: dict[str, Any]
    line: str


def issue(key: keys.PrivateKey, terms: Terms, delivery: Delivery, time_ms: int) -> Issued:
    """Hash, state and sign. About 60 µs for a short slice; hashing takes 3 ms per MB."""
    measured, fixed = delivery.metrics, terms.texts
    entry, exit_ = hash_of(delivery.input), hash_of(delivery.output)
    metrics = {
        "bytesIn": measured.bytes_in,
        "bytesOut": measured.bytes_out,
        "cpuNs": _ns(measured.cpu_time_s),
        "gpuNs": _ns(measured.gpu_time_s),
        "peakMemory": measured.peak_memory_bytes,
        "wallNs": _ns(measured.wall_time_s),
    }
    # The canonical text by hand, as `signed_text` makes it from the receipt: a third of the time, for every slice.
    figures = ",".join(f'"{name}":{value}' for name, value in metrics.items())
    text = (
        f'{fixed.head},"input":"{entry}",{fixed.isolation}"job":{js_json.string(delivery.job)},{fixed.limits},"metrics":{{{figures}}},'
        f'"output":"{exit_}",{fixed.payee},"slice":{delivery.slice},"threw":{"true" if delivery.threw else "false"},'
        f'"time":{time_ms},{fixed.worker}}}'
    )
    r, s, v = key.sign_message(text.encode())
    signature = f"0x{r.hex()}{s.hex()}{v:02x}"
    receipt = {
        "format": FORMAT,
        "image": terms.image,
        "input": entry,
        **({} if terms.isolation is None else {"isolation": terms.isolation}),
        "job": delivery.job,
        "limits": terms.limits,
        "metrics": metrics,
        "output": exit_,
        "paymentAddress": terms.payment_address,
        "slice": delivery.slice,
        "threw": delivery.threw,
        "time": time_ms,
        "worker": terms.worker,
        "workerId": terms.worker_id,
        "signature": signature,
    }
    return Issued(receipt, f'{text[:-1]},"signature":"{signature}"}}')


def _ns(seconds: float) -> int:
    """Nanoseconds, as far as every reader of JSON holds integers exactly (104 days)."""
    return min(round(seconds * _NS), 2**53 - 1)


def signed_text(receipt: Mapping[str, Any]) -> str:
    """The canonical text that the signature covers. Raises `InvalidInput` for what JSON cannot say."""
    return js_json.dumps(_sorted({name: value for name, value in receipt.items() if name != "signature"}))


def signer(receipt: Mapping[str, Any]) -> str:
    """The address that signed. Raises `InvalidInput`, saying what is wrong, unless every field is as `issue` makes it,
    none is missing (but optional ones) or unknown, and the signature is that of `worker`."""
    _check_form(receipt)
    match = _SIGNATURE.fullmatch(str(receipt["signature"]))
    if match is None:
        raise InvalidInput("signature is not 0x and 65 bytes in hexadecimal, ending in 1b or 1c")
    r, s, v = bytes.fromhex(match[1]), bytes.fromhex(match[2]), int(match[3], 16)
    if int.from_bytes(s, "big") > _HALF_ORDER:
        raise InvalidInput("signature has a high s: it is the twin of another one")
    text = signed_text(receipt).encode("utf-8", "surrogatepass")
    found = keys.recover(keys.message_digest(text), r, s, v)
    if found != receipt["worker"]:
        raise InvalidInput(f"it was changed after {receipt['worker']} had signed it, or signed by somebody else")
    return found


def parse(line: str) -> dict[str, Any]:
    """A receipt from a line of JSON. Raises `InvalidInput`."""
    receipt = js_json.loads(line)
    if not isinstance(receipt, dict):
        raise InvalidInput("it is not a JSON object")
    return receipt


def _sorted(value: Any) -> Any:
    return {name: _sorted(value[name]) for name in sorted(value)} if isinstance(value, Mapping) else value


# -- the form of a receipt ---------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_TEXT


def _hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _address(value: Any) -> bool:
    try:
        return bool(addresses.checksum(value) == value)
    except InvalidInput:
        return False


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _whole_or_none(value: Any) -> bool:
    return value is None or _whole(value)


_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "format": lambda value: bool(value == FORMAT),
    "image": _text,
    "input": _hash,
    "isolation": _text,
    "job": _text,
    "limits": lambda value: isinstance(value, Mapping),
    "metrics": lambda value: isinstance(value, Mapping),
    "output": _hash,
    "paymentAddress": _address,
    "signature": _text,
    "slice": _whole,
    "threw": lambda value: isinstance(value, bool),
    "time": _whole,
    "worker": _address,
    "workerId": _text,
}
#: Not in receipts of before it was told.
_OPTIONAL: Final = frozenset({"isolation"})
_LIMITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "cpuMillis": _whole,
    "memoryBytes": _whole,
    "pids": _whole,
    "progressTimeoutMs": _whole_or_none,
    "sliceTimeoutMs": _whole_or_none,
    "swapBytes": _whole,
}
_METRICS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "bytesIn": _whole,
    "bytesOut": _whole,
    "cpuNs": _whole,
    "gpuNs": _whole,
    "peakMemory": _whole,
    "wallNs": _whole,
}


def _check_form(receipt: Mapping[str, Any]) -> None:
    for place, fields, found in (
        ("", _FIELDS, receipt),
        ("limits.", _LIMITS, receipt.get("limits")),
        ("metrics.", _METRICS, receipt.get("metrics")),
    ):
        if not isinstance(found, Mapping):
            raise InvalidInput(f"{place.rstrip('.')} is not an object")
        for name in found.keys() - fields.keys():
            raise InvalidInput(f"{place}{name} is no field of a receipt of this format")
        for name, holds in fields.items():
            if name not in found:
                if not place and name in _OPTIONAL:
                    continue
                raise InvalidInput(f"{place}{name} is missing")
            if not holds(found[name]):
                raise InvalidInput(f"{place}{name} is {found[name]!r:.80}, which it cannot be")
