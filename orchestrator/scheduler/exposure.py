"""How the Scheduler faces the network, as its settings say: TLS, proxies, limits against floods."""

from __future__ import annotations

import ssl

from orchestrator.errors import InvalidInput
from orchestrator.protocol.guard import GuardLimits
from orchestrator.protocol.places import TrustedProxies
from orchestrator.protocol.server import ServerLimits
from orchestrator.settings import SchedulerSettings

_BURST = 10
_OFFENCES_BURST = 40
_MIB = 1024 * 1024


def server_limits(settings: SchedulerSettings) -> ServerLimits:
    return ServerLimits(
        guard=GuardLimits(
            address_connections=settings.max_address_connections,
            address_half_open=settings.max_address_half_open,
            address_connects=settings.address_connects_per_s,
            address_connects_burst=_BURST * settings.address_connects_per_s,
            address_messages=settings.address_messages_per_s,
            address_messages_burst=_BURST * settings.address_messages_per_s,
            identity_sessions=settings.max_identity_sessions,
            identity_messages=settings.identity_messages_per_s,
            identity_messages_burst=_BURST * settings.identity_messages_per_s,
            identity_requests=settings.identity_requests_per_s,
            identity_requests_burst=_BURST * settings.identity_requests_per_s,
            identity_characters=settings.identity_mib_per_s * _MIB,
            identity_characters_burst=_BURST * settings.identity_mib_per_s * _MIB,
            address_offences=settings.address_offences_per_s,
            address_offences_burst=_OFFENCES_BURST * settings.address_offences_per_s,
            ban_s=settings.address_ban_s,
            identity_offences=settings.identity_offences_per_s,
            identity_offences_burst=_OFFENCES_BURST * settings.identity_offences_per_s,
            identity_ban_s=settings.identity_ban_s,
            identity_held=settings.max_identity_held_mib * _MIB,
            address_held=settings.max_address_held_mib * _MIB,
            all_held=settings.max_held_mib * _MIB,
        ),
        sessions=settings.max_sessions,
        sockets=settings.max_connections,
    )


def trusted_proxies(settings: SchedulerSettings) -> TrustedProxies:
    """Raises `InvalidInput`."""
    try:
        return TrustedProxies(settings.trusted_proxies)
    except ValueError as error:
        raise InvalidInput(f"trusted_proxies: {error}; write an address or a network such as 10.0.0.0/8") from error


def tls_context(settings: SchedulerSettings) -> ssl.SSLContext | None:
    """None when plain http is to be served. Raises `InvalidInput`. Reads the files."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        if key is not None:
            raise InvalidInput("tls_key is given without tls_certificate; give both, or none for plain http")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A key that asks for a passphrase would ask on the terminal: an empty one makes it an error.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except FileNotFoundError as error:
        missing = certificate if not certificate.exists() else key
        raise InvalidInput(f"tls_certificate, tls_key: there is no file {missing}") from error
    except (ssl.SSLError, OSError) as error:
        said = error.strerror or error
        raise InvalidInput(
            f"tls_certificate, tls_key: {certificate} and {key or certificate} are no PEM certificate and its key "
            f"without passphrase ({said})"
        ) from error
    return context
