"""The fingerprint of a result: equal for results that mean the same value, however they were written.

One worker writes JSON, another KVIN, one escapes more characters than the other, and an older one speaks an older KVIN;
a client gets the same value from each. So the hash is over the value written anew in one way.
"""

from __future__ import annotations

import hashlib

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs.data_uris import decode_data_uri
from orchestrator.jobs.values import value_of_uri

_LIMIT = kvin.Limits().text


def fingerprint(uri: str) -> str:
    """64 hexadecimal digits. Takes about as long as decoding the value; never raises: what cannot be decoded stands for
    itself."""
    return hashlib.sha256(_canonical(uri)).hexdigest()


def _canonical(uri: str) -> bytes:
    if not uri.startswith("data:"):
        return b"uri:" + uri.encode(errors="surrogatepass")
    try:
        value = value_of_uri(uri)
        if isinstance(value, bytes):
            return b"bytes:" + decode_data_uri(uri, _LIMIT)[0].encode() + b":" + value
        return b"value:" + kvin.stringify(value, version=9).encode(errors="surrogatepass")
    except (InvalidInput, ValueError, RecursionError):
        return b"text:" + uri.encode(errors="surrogatepass")
