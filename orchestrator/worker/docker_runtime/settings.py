"""How sandboxes are run, as far as Docker is concerned."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.worker.limits import SandboxLimits


@dataclass(frozen=True)
class RuntimeSettings:
    """How sandboxes are run. `runtime` is an OCI runtime of the Engine (runc, crun, runsc); None is its default."""

    image: str = "dcp-evaluator:local"
    image_digest: str | None = None
    """`sha256:…`, the only image to be used; None takes whatever has the name (which may hold a digest, too)."""
    docker_host: str | None = None
    runtime: str | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    call_timeout_s: float = 20.0
    start_patience_s: float = 0.0
    """How long an Engine that is there, but silent, is waited for at the start."""
    lease_s: float = 1800.0
    """After this without renewal, a container whose owner cannot be seen is anybody's to remove."""
    lease_patience_s: float = 90.0
    """How long a lease must have been seen to be over before its container is removed."""
    reap_period_s: float = 60.0
    leftover_age_s: float = 1800.0
    """Age at which a cgroup of another run that no container has is taken for forgotten."""
    require_limits: bool = True
    """Whether to refuse an Engine that cannot limit memory, CPU and processes."""
    own_cgroups: bool = True
    """Whether to give each sandbox a parent cgroup (exact figures after its end) where the machine allows it."""
