"""Which URLs a job may make the worker touch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.worker.fetching.addresses import Kind
from orchestrator.worker.origins import Origin, OriginForbidden, OriginRules, Purpose, Reach, opens

SCHEDULER = "https://scheduler.example/"


@pytest.mark.parametrize(
    ("entries", "url", "purpose", "allowed"),
    [
        ([], "https://scheduler.example/code.js", Purpose.WORK_FUNCTIONS, True),
        ([], "https://files.scheduler.example/code.js", Purpose.DATA, True),
        ([], "https://scheduler.example./code.js", Purpose.WORK_FUNCTIONS, True),
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
        (["fetchData=*"], "http://93.184.216.34/x", Purpose.DATA, True),
        (["fetchData=*"], "http://93.184.216.34/x", Purpose.ARGUMENTS, False),
        (["*"], "http://93.184.216.34/x", Purpose.ARGUMENTS, True),
        (["*"], "ftp://93.184.216.34/x", Purpose.ARGUMENTS, False),
        (["*"], "data:,x", Purpose.ARGUMENTS, False),
        (["*"], "file:///etc/passwd", Purpose.ARGUMENTS, False),
        # modules are code; what a work function fetches itself is a matter of its own
        ([], "https://scheduler.example/m.js", Purpose.MODULES, True),
        (["fetchWorkFunctions=https://a.example"], "https://a.example/m.js", Purpose.MODULES, True),
        (["fetchModules=https://a.example"], "https://a.example/m.js", Purpose.MODULES, True),
        (["fetchModules=https://a.example"], "https://a.example/m.js", Purpose.WORK_FUNCTIONS, False),
        (["fetchData=https://a.example"], "https://a.example/m.js", Purpose.MODULES, False),
        ([], "https://scheduler.example/x", Purpose.GUEST, False),
        (["fetch=https://a.example"], "https://a.example/any/path?q", Purpose.GUEST, True),
        (["workerFetch=https://a.example"], "https://a.example/x", Purpose.GUEST, True),
        (["https://a.example"], "https://a.example/x", Purpose.GUEST, True),
        (["fetch=https://a.example"], "https://a.example/x", Purpose.DATA, False),
        (["fetchData=https://a.example"], "https://a.example/x", Purpose.GUEST, False),
        # other spellings of the same
        (["https://bücher.example"], "https://xn--bcher-kva.example/x", Purpose.DATA, True),
        (["http://[0:0:0:0:0:0:0:1]"], "http://[::1]/x", Purpose.DATA, True),
        (["*"], "https://a.example:0/", Purpose.DATA, False),
        (["*"], "https://a%2eexample/", Purpose.DATA, False),
        (["*"], "https://a.example\\@b.example/", Purpose.DATA, False),
        (["*"], "https://" + "a" * 300 + ".example/", Purpose.DATA, False),
        (["*"], "https://a.example/" + "a" * 20_000, Purpose.DATA, False),
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


#: Spellings of addresses that only the worker can reach.
INWARD = [
    "http://127.0.0.1/",
    "http://10.0.0.1:8080/",
    "http://100.64.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]/",
    "http://[fd00:ec2::254]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://224.0.0.1/",
    "http://2130706433/",
    "http://127.1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://①②⑦.⓪.⓪.①/",
    "http://[fe80::1%25eth0]/",
]


@pytest.mark.parametrize("url", INWARD)
@pytest.mark.parametrize("entry", ["*", "fetchData=*", "http://a.example"])
def test_a_star_does_not_open_the_workers_own_network(url, entry):
    with pytest.raises(OriginForbidden):
        OriginRules.parse(SCHEDULER, [entry]).check(url, Purpose.DATA)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://0.0.0.0/"])
def test_an_address_that_is_named_is_open_at_that_port(url):
    rules = OriginRules.parse(SCHEDULER, ["*", url])
    assert rules.check(url + "x", Purpose.DATA).reach is Reach.NAMED
    with pytest.raises(OriginForbidden, match="not open to jobs"):
        rules.check(url[:-1] + ":81/x", Purpose.DATA)


def test_the_scheduler_may_be_in_the_own_network():
    rules = OriginRules.parse("http://127.0.0.1:9001/", [])
    assert rules.check("http://127.0.0.1:9001/code.js", Purpose.WORK_FUNCTIONS).reach is Reach.NAMED
    for url in ("http://127.0.0.1:9002/", "http://x.127.0.0.1:9001/", "http://localhost:9001/"):
        with pytest.raises(OriginForbidden):
            rules.check(url, Purpose.WORK_FUNCTIONS)
    below = OriginRules.parse(SCHEDULER, []).check("https://files.scheduler.example/", Purpose.DATA)
    assert below.reach is Reach.PUBLIC, "who gives names below the Scheduler's gives no addresses in this network"


@pytest.mark.parametrize(
    ("reach", "open_to"),
    [(Reach.PUBLIC, {Kind.PUBLIC}), (Reach.NAMED, {Kind.PUBLIC, Kind.PRIVATE, Kind.LOOPBACK})],
)
def test_where_names_may_lead(reach, open_to):
    assert {kind for kind in Kind if opens(reach, kind)} == open_to


def test_origins_that_the_scheduler_lends():
    rules = OriginRules.parse(SCHEDULER, [])
    lent = rules.lending(
        {"fetchData": ["nonsense", "https://a.example/", "*", "http://10.0.0.1"], "unknown": ["http://b"]}
    )
    assert lent.check("https://a.example/x", Purpose.DATA).reach is Reach.PUBLIC
    for url, purpose in (("https://a.example/x", Purpose.ARGUMENTS), ("http://10.0.0.1/", Purpose.DATA)):
        with pytest.raises(OriginForbidden):
            lent.check(url, purpose)
    assert lent.lending({}) == lent
    with pytest.raises(OriginForbidden):
        lent.check("https://b.example/", Purpose.DATA)


@pytest.mark.parametrize(
    ("entries", "url", "purpose", "allowed"),
    [
        (["file:///srv/a.json"], "file:///srv/a.json", Purpose.ARGUMENTS, True),
        (["file:///srv/a.json"], "file://localhost/srv/a.json", Purpose.ARGUMENTS, True),
        (["file:///srv/a.json"], "file:///srv/b.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:///srv/../srv/a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:///srv/./a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:////srv/a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:///srv/%2e%2e/srv/a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file://host/srv/a.json", Purpose.ARGUMENTS, False),
        (["file:///srv/a.json"], "file:srv/a.json", Purpose.ARGUMENTS, False),
        (["fetchData=file:///srv/a.json"], "file:///srv/a.json", Purpose.ARGUMENTS, False),
        (["fetchData=file:///srv/a.json"], "file:///srv/a.json", Purpose.DATA, True),
        (["file:///srv/in/"], "file:///srv/in/deep/a.json", Purpose.DATA, True),
        (["file:///srv/in/"], "file:///srv/in/", Purpose.DATA, False),
        (["file:///srv/in/"], "file:///srv/inside.json", Purpose.DATA, False),
        (["file:///srv/in/"], "file:///srv/in/../a.json", Purpose.DATA, False),
        (["*"], "file:///srv/a.json", Purpose.DATA, False),
        ([], "file:///srv/a.json\0", Purpose.DATA, False),
    ],
)
def test_files(entries, url, purpose, allowed):
    rules = OriginRules.parse(SCHEDULER, entries)
    if allowed:
        assert rules.check_file(url, purpose).startswith("/srv/")
    else:
        with pytest.raises(OriginForbidden):
            rules.check_file(url, purpose)


@pytest.mark.parametrize(
    "entry",
    ["", "a.example", "fetchdata=https://a.example", "https://a.example/x", "https://", "http://127.1", "http://a:0"],
)
def test_entries_that_say_nothing_are_errors(entry):
    with pytest.raises(InvalidInput):
        OriginRules.parse(SCHEDULER, [entry])


def test_the_message_says_what_to_do():
    with pytest.raises(OriginForbidden, match=r"--allow-origin fetchData=https://a\.example:8443"):
        OriginRules.parse(SCHEDULER, []).check("https://a.example:8443/deep/path", Purpose.DATA)


def test_origins_print_as_browsers_do():
    assert str(Origin.of("HTTPS://A.example:443/x")) == "https://a.example"
    assert str(Origin.of("http://[::1]:8080/")) == "http://[::1]:8080"


_PARTS = st.sampled_from(
    ["http:", "https:", "file:", "//", "/", "[", "]", "@", ":", "%", "\\\\", "?", "#", "..", "::1", "a.b", "１"]
)


@given(st.lists(st.one_of(_PARTS, st.text(max_size=5)), max_size=12).map("".join))
def test_whatever_a_job_says_is_allowed_or_refused_and_nothing_else(text):
    rules = OriginRules.parse(SCHEDULER, ["*", "file:///srv/"])
    for check in (rules.check, rules.check_file):
        try:
            check(text, Purpose.DATA)
        except OriginForbidden as error:
            assert error.code == "EPERM_ORIGIN" and error.message
