"""Which URLs a job may make the worker touch."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.worker.origins import Origin, OriginForbidden, OriginRules, Purpose

SCHEDULER = "https://scheduler.example/"


@pytest.mark.parametrize(
    ("entries", "url", "purpose", "allowed"),
    [
        ([], "data:,x", Purpose.DATA, True),
        ([], "https://scheduler.example/code.js", Purpose.WORK_FUNCTIONS, True),
        ([], "https://files.scheduler.example/code.js", Purpose.DATA, True),
        ([], "https://scheduler.example/code.js", Purpose.ANY, False),
        ([], "http://scheduler.example/code.js", Purpose.DATA, False),
        ([], "https://scheduler.example:444/x", Purpose.DATA, False),
        ([], "https://evilscheduler.example/x", Purpose.DATA, False),
        ([], "https://scheduler.example.evil/x", Purpose.DATA, False),
        ([], "https://a.example/x", Purpose.DATA, False),
        (["https://a.example"], "https://a.example/x?y#z", Purpose.RESULTS, True),
        (["https://a.example/"], "https://A.EXAMPLE:443/x", Purpose.RESULTS, True),
        (["https://a.example"], "https://b.a.example/x", Purpose.RESULTS, False),
        (["fetchData=https://a.example"], "https://a.example/x", Purpose.DATA, True),
        (["fetchData=https://a.example"], "https://a.example/x", Purpose.ARGUMENTS, False),
        (["fetchData=*"], "http://10.0.0.1/x", Purpose.DATA, True),
        (["fetchData=*"], "http://10.0.0.1/x", Purpose.ARGUMENTS, False),
        (["*"], "http://10.0.0.1/x", Purpose.ARGUMENTS, True),
        (["*"], "ftp://10.0.0.1/x", Purpose.ARGUMENTS, False),
        (["*"], "file:///etc/passwd", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:///srv/a.json", Purpose.ARGUMENTS, True),
        (["file:///srv/a.json"], "file:///srv/b.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:///srv/../srv/a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file://host/srv/a.json", Purpose.ARGUMENTS, False),
        (["https://a.example"], "https://a.example@b.example/", Purpose.DATA, False),
        (["https://a.example"], "https://user@a.example/", Purpose.DATA, False),
        (["https://a.example"], "https://a.example:99999/", Purpose.DATA, False),
        (["https://a.example"], "https:a.example", Purpose.DATA, False),
        (["http://[::1]:8080"], "http://[::1]:8080/x", Purpose.DATA, True),
    ],
)
def test_rules(entries, url, purpose, allowed):
    rules = OriginRules.parse(SCHEDULER, entries)
    if allowed:
        rules.check(url, purpose)
    else:
        with pytest.raises(OriginForbidden) as caught:
            rules.check(url, purpose)
        assert caught.value.code == "EPERM_ORIGIN"


@pytest.mark.parametrize("entry", ["", "a.example", "fetchdata=https://a.example", "https://a.example/x", "https://"])
def test_entries_that_say_nothing_are_errors(entry):
    with pytest.raises(InvalidInput):
        OriginRules.parse(SCHEDULER, [entry])


def test_the_message_says_what_to_do():
    with pytest.raises(OriginForbidden, match=r"--allow-origin fetchData=https://a\.example:8443"):
        OriginRules.parse(SCHEDULER, []).check("https://a.example:8443/deep/path", Purpose.DATA)


def test_origins_print_as_browsers_do():
    assert str(Origin.of("HTTPS://A.example:443/x")) == "https://a.example"
    assert str(Origin.of("http://[::1]:8080/")) == "http://[::1]:8080"
