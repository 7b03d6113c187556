"""Runs a command of ours and weighs what it spends on signatures: hashing, signing and recovering signers.

    python -m benchmarks.weighed FILE dcp-orchestrator scheduler run …

On SIGUSR1 the process writes {name: [calls, CPU seconds]} to the file. A call costs a microsecond more than otherwise.
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from orchestrator.cli.main import main
from orchestrator.wallet import keys

_spent: dict[str, list[float]] = {}


def _weigh(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    entry = _spent[name] = [0, 0.0]

    def weighed(*arguments: Any, **named: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            entry[0] += 1
            entry[1] += time.thread_time() - begun

    return weighed


def run() -> None:
    told = pathlib.Path(sys.argv[1])
    keys.recover = _weigh("recover", keys.recover)
    keys.message_digest = _weigh("digest", keys.message_digest)
    keys.PrivateKey.sign_digest = _weigh("sign", keys.PrivateKey.sign_digest)  # type: ignore[method-assign]

    def tell(*_: object) -> None:
        fresh = told.with_suffix(".fresh")
        fresh.write_text(json.dumps(_spent))
        fresh.rename(told)

    signal.signal(signal.SIGUSR1, tell)
    sys.argv = sys.argv[2:]
    main()


if __name__ == "__main__":
    run()
