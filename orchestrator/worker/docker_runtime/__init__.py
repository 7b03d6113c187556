"""Docker, and the only package that knows it.

The `docker` SDK configures: it checks the Engine, inspects the image, creates, starts, kills, removes and lists
containers in a small thread pool, every call with a time limit. What is fast or long-lived is asynchronous and by
hand: the attach stream that carries a sandbox's data, and the Engine's event stream.
"""

from orchestrator.worker.docker_runtime.container import Container, ContainerState
from orchestrator.worker.docker_runtime.engine import EngineInfo
from orchestrator.worker.docker_runtime.failures import ContainerGone, ContainerRefused, RuntimeUnavailable
from orchestrator.worker.docker_runtime.frames import STDERR, STDOUT
from orchestrator.worker.docker_runtime.runtime import DockerRuntime
from orchestrator.worker.docker_runtime.settings import RuntimeSettings

__all__ = [
    "STDERR",
    "STDOUT",
    "Container",
    "ContainerGone",
    "ContainerRefused",
    "ContainerState",
    "DockerRuntime",
    "EngineInfo",
    "RuntimeSettings",
    "RuntimeUnavailable",
]
