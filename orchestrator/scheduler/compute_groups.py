"""The computeGroups service. So far there is one group, the public one, which everybody may join."""

from __future__ import annotations

import dataclasses
from typing import Any

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs.words import parse_group
from orchestrator.protocol.server import Request
from orchestrator.scheduler.core import Core, Operations, fields, require_owner
from orchestrator.scheduler.messages import PUBLIC_GROUP_ID
from orchestrator.scheduler.store import jobs


class ComputeGroups:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._operations = Operations({"addJobToGroups": self.add_job_to_groups})

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def add_job_to_groups(self, request: Request) -> dict[str, Any]:
        """Put a job into groups; from then on it is distributed. Repeating it is harmless.

        The service's own way to refuse: a successful response whose payload says `success: false`.
        """
        data = fields(request)
        descriptors = data.get("cgArray")
        if not isinstance(descriptors, list) or not descriptors:
            raise InvalidInput("cgArray must be a list of compute groups")
        groups = [parse_group(one, f"cgArray[{index}]") for index, one in enumerate(descriptors)]
        joined = [group for group in groups if group.is_public]
        if not joined:
            names = ", ".join(str(group.join_key or group.id or group.opaque_id) for group in groups)
            return {"success": False, "code": "ENOENT", "message": f"there is no compute group {names}"}
        try:
            await self._join(request, data.get("job"))
        except OrchestratorError as error:
            return {"success": False, "code": error.code, "message": error.message}
        return {"success": True, "joined": [PUBLIC_GROUP_ID]}

    async def _join(self, request: Request, job_id: Any) -> None:
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, job_id)
            require_owner(request, job)
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            await jobs.join_groups(tx, job.key, [PUBLIC_GROUP_ID])
            if not state.admitted:
                state = dataclasses.replace(state, admitted=True)
                state = (await self._core.settlement.advance(tx, [(job, state)], self._core.clock()))[job.key]
                await jobs.save(tx, [state])
        self._core.answered(job)
        self._core.publish_state(state)
