"""That nothing can be opened any more is said once, with the limit, and so is its end."""

from __future__ import annotations

import resource

from orchestrator.worker.descriptors import Descriptors


def test_it_is_said_once_and_so_is_its_end(caplog):
    descriptors = Descriptors()
    descriptors.look()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        descriptors.look()
        descriptors.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    descriptors.look()
    descriptors.look()
    said = [(line.message, getattr(line, "limit", None)) for line in caplog.records]
    assert said == [("out_of_file_descriptors", 0), ("file_descriptors_are_back", None)]
    assert "LimitNOFILE" in caplog.records[0].error
