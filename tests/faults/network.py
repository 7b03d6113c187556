"""A network namespace for a Worker, so that its way to the Scheduler can be cut without touching the machine's own."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator, Sequence


class Cable:
    """A namespace and the veth pair that ties it to the host. Addresses are of a private net of their own."""

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        number = secrets.randbelow(60 * 256)
        net = f"10.{190 + number // 256 % 60}.{number % 256}"
        self.name = f"dcpf-{tag}"
        self.host_device, self.inner_device = f"vh{tag}", f"vi{tag}"
        self.host, self.inner = f"{net}.1", f"{net}.2"

    @property
    def prefix(self) -> Sequence[str]:
        """A command to run another under. `ip netns exec` would remount /sys, too, and hide the cgroups."""
        return ("nsenter", f"--net=/var/run/netns/{self.name}")

    @contextlib.contextmanager
    def laid(self) -> Iterator[Cable]:
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", self.host_device, "type", "veth", "peer", "name", self.inner_device)
            _run("ip", "link", "set", self.inner_device, "netns", self.name)
            _run("ip", "addr", "add", f"{self.host}/30", "dev", self.host_device)
            _run("ip", "link", "set", self.host_device, "up")
            for command in (
                f"addr add {self.inner}/30 dev {self.inner_device}",
                f"link set {self.inner_device} up",
                "link set lo up",
            ):
                _run(*self.prefix, "ip", *command.split())
            yield self
        finally:
            subprocess.run(["ip", "link", "del", self.host_device], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def rule(self, *rule: str) -> None:
        """Add an iptables rule on the Worker's side."""
        _run(*self.prefix, "iptables", "-w", *rule)

    def drop(self, *chains: str, part: float = 1.0) -> None:
        """Lose packets on their way in (INPUT) or out (OUTPUT), all of them or a part."""
        chance = [] if part == 1.0 else ["-m", "statistic", "--mode", "random", "--probability", str(part)]
        for chain in chains:
            self.rule("-A", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", *chance, "-j", "DROP")

    def mend(self) -> None:
        self.rule("-F")


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
