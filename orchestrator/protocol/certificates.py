"""A server's certificate that this machine does not trust: one clear error instead of endless attempts."""

from __future__ import annotations

import asyncio
import hashlib
import ssl

from yarl import URL

from orchestrator.errors import Fault, OrchestratorError

__all__ = ["UntrustedCertificate", "untrusted"]

_LOOK_S = 10
_LONGEST_CHAIN = 20


class UntrustedCertificate(OrchestratorError):
    """TLS works, but who answers cannot prove to be the host that was asked for. Trying again does not help."""

    code = "ECERT"
    fault = Fault.USER


async def untrusted(url: str, error: BaseException) -> UntrustedCertificate | None:
    """What to tell somebody whose connection to `url` failed with `error`; None when no certificate is to blame."""
    reason = _verification_error(error)
    if reason is None:
        return None
    parsed = URL(url)
    host, port = parsed.host or "", parsed.port or 443
    fingerprint = await _fingerprint(host, port)
    return UntrustedCertificate(
        f"the certificate of {host} port {port} (SHA-256 {fingerprint}) is not trusted: {reason.verify_message}. "
        "If it is the right one, name a PEM file with it or its authority in $SSL_CERT_FILE, or add it to the "
        "certificate authorities of this machine; if it is for another name, use that name in the URL",
        info={"host": host, "port": port, "sha256": fingerprint, "reason": reason.verify_message},
    )


def _verification_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    seen: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        # aiohttp's error is one itself, of which only the one inside tells anything.
        inner = getattr(seen, "certificate_error", seen)
        if isinstance(inner, ssl.SSLCertVerificationError):
            return inner
        if seen is None:
            break
        seen = seen.__cause__ or seen.__context__
    return None


async def _fingerprint(host: str, port: int) -> str:
    """Of the certificate that is shown, trusted or not."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return "unknown"
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return hashlib.sha256(shown or b"").hexdigest()
    finally:
        writer.transport.abort()
