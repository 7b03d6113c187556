"""What a job needs before its first slice can run: work function, arguments, modules, range."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator import kvin
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs.ranges import parse_input_set
from orchestrator.jobs.values import uris_of_arguments
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.fetching.failures import Cause, FetchFailed
from orchestrator.worker.fetching.fetcher import Errand, Fetcher
from orchestrator.worker.origins import OriginForbidden, Purpose
from orchestrator.worker.sandbox_events import Assignment
from orchestrator.worker.scheduler_link.package_manager import PackageManager
from orchestrator.worker.task import JobOffer

_FINAL = frozenset({"ENOMODULE", "EMODULETOOBIG"})
_MOST_MODULES = 1000

Modules = Mapping[str, Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """`modules` is {package: {file: source}}; `datum_of(n)` the datum of slice n for jobs with a range."""

    assignment: Assignment
    modules: Modules
    datum_of: Callable[[int], str] | None


async def gather(
    offer: JobOffer,
    fetcher: Fetcher,
    packages: PackageManager,
    *,
    worktime_version: str,
    sandbox_config: Mapping[str, Any],
) -> Artifacts:
    """Fetch everything, at the same time. Raises `OrchestratorError`; see `failure` for what it means."""
    try:
        async with TaskGroup() as group:
            errand = errand_of(offer)
            code = group.create_task(fetcher.text(offer.code_location, Purpose.WORK_FUNCTIONS, errand))
            arguments = [
                group.create_task(fetcher.artifact(uri, Purpose.ARGUMENTS, errand)) for uri in _argument_uris(offer)
            ]
            modules = group.create_task(_modules(offer.dependencies, fetcher, packages, errand))
            inputs = group.create_task(_range(offer.range_location, fetcher, errand))
    except BaseExceptionGroup as errors:
        expected, others = errors.split(OrchestratorError)
        if expected is None or others is not None:
            raise
        raise _first(expected) from None
    assignment = Assignment(
        job_id=offer.job_id,
        work_function=code.result(),
        argument_uris=tuple(argument.result() for argument in arguments),
        use_strict=offer.use_strict,
        public=offer.public,
        require_path=offer.require_path,
        module_path=offer.module_path,
        dependencies=offer.dependencies,
        worktime_name=offer.worktime[0],
        worktime_version=worktime_version,
        sandbox_config=sandbox_config,
    )
    return Artifacts(assignment, modules.result(), inputs.result())


def failure(job_id: str, error: OrchestratorError) -> ev.JobFetchFailed:
    """What the supervisor makes of an error of `gather`."""
    fetch = isinstance(error, FetchFailed)
    lasting = isinstance(error, OriginForbidden | InvalidInput) or (fetch and not error.retryable)
    code = "EFETCH" if isinstance(error, InvalidInput) else error.code
    pause = error.retry_after_s if isinstance(error, FetchFailed) else 0.0
    return ev.JobFetchFailed(job_id, code, error.message, lasting or code in _FINAL, pause, cause_of(error))


def cause_of(error: OrchestratorError) -> str:
    """The finer cause of an error of fetching, "" when there is none."""
    if isinstance(error, InvalidInput):  # what was fetched makes no sense
        return Cause.UNDECODABLE.value
    return str(error.info.get("cause", ""))


def errand_of(offer: JobOffer | None) -> Errand:
    """For whom something of this job is fetched."""
    return Errand() if offer is None else Errand(offer.group_id, offer.local_exec)


def _first(errors: BaseExceptionGroup[OrchestratorError]) -> OrchestratorError:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, OrchestratorError)
    return first


def _argument_uris(offer: JobOffer) -> Sequence[str]:
    if offer.argument_locations or offer.arguments is None:
        return offer.argument_locations
    return uris_of_arguments(offer.arguments, field="arguments")


async def _modules(dependencies: Sequence[str], fetcher: Fetcher, packages: PackageManager, errand: Errand) -> Modules:
    if not dependencies:
        return {}
    urls = await packages.module_urls(dependencies)
    if sum(map(len, urls.values())) > _MOST_MODULES:
        raise _too_big(f"more than {_MOST_MODULES} modules")
    modules: dict[str, dict[str, str]] = {}
    size = 0
    for package, files in urls.items():
        modules[package] = {}
        for name, url in files.items():
            modules[package][name] = source = await fetcher.module(url, errand)
            size += len(source)
            if size > fetcher.limits.max_bytes:
                raise _too_big(f"modules of more than {fetcher.limits.max_bytes} characters in all")
    return modules


def _too_big(message: str) -> FetchFailed:
    return FetchFailed(message, Cause.TOO_LARGE, code="EMODULETOOBIG")


async def _range(location: str | None, fetcher: Fetcher, errand: Errand) -> Callable[[int], str] | None:
    if location is None:
        return None
    text = await fetcher.text(location, Purpose.DATA, errand)
    limit = fetcher.limits.max_bytes
    try:
        form = kvin.parse(text) if text.startswith('{"_serializeVerId"') else kvin.load_json(text, limit)
        inputs = parse_input_set(form)
    except (InvalidInput, ArithmeticError, RecursionError) as error:
        raise InvalidInput(f"the job's range makes no sense: {getattr(error, 'message', error)}") from None

    def datum_of(number: int) -> str:
        """Raises `LookupError` when there is no such datum, or none that can be written."""
        try:
            return inputs.uri(number - 1)
        except (InvalidInput, ValueError, ArithmeticError, RecursionError) as error:
            raise LookupError(str(error)) from None

    return datum_of
