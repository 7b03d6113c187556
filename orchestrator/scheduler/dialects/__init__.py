"""The dialects of DCP that workers speak. The services know one, v5; others are translated at their edge.

* v5 (dcp-client 5.x, our own Worker) needs no translation: its words are those of the services.
* `v4` (dcp-worker 3.x with its dcp-client 4.x): job addresses instead of job ids, a requirements object instead of a
  bit mask, KVIN up to v8.

A connection's dialect is known from the path under which it came. `speaking_all` puts the translation in front of a
service, so below it there is one state and one lifecycle.
"""

from __future__ import annotations

from orchestrator.scheduler.dialects.addresses import job_address
from orchestrator.scheduler.dialects.edge import command_payload, speaking_all

__all__ = ["command_payload", "job_address", "speaking_all"]
