from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.jobs.words import join_hash, join_hash_hash, parse_group
from orchestrator.scheduler import groups
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Access, Commission, Full, Group, Knock, Terms, Use
from orchestrator.wallet.keys import PrivateKey

OWNER, FRIEND, STRANGER = (PrivateKey.generate().address for _ in range(3))
ID = "a" * 22
SECRET = join_hash("scott", "tiger")
GROUP = Group(ID, OWNER, join_key="scott", join_hash=SECRET)
DCC = 10**18


def knock(sender: str = STRANGER, *, dcpsid: str = "sid", **descriptor: Any) -> Knock:
    return Knock(parse_group({"joinKey": "scott"} | descriptor, "g"), frozenset({sender}), dcpsid)


PROOF = {"joinHashHash": join_hash_hash("sid", SECRET)}


def test_who_knows_the_secret_may_put_jobs_in_and_work() -> None:
    for may in (groups.may_deploy, groups.may_work):
        assert may(GROUP, knock(**PROOF))
        assert not may(GROUP, knock())
        assert not may(GROUP, knock(**PROOF, dcpsid="another connection"))
        assert not may(GROUP, knock(joinHashHash=join_hash_hash("sid", join_hash("scott", "lion"))))
        assert not may(dataclasses.replace(GROUP, join_key="other"), knock(**PROOF))


def test_the_owner_needs_no_proof() -> None:
    assert groups.may_deploy(GROUP, knock(OWNER))
    assert groups.may_work(GROUP, knock(OWNER))


def test_only_the_owner_when_the_group_says_so() -> None:
    closed = dataclasses.replace(GROUP, terms=Terms(deploy_access=Access.OWNER))
    assert not groups.may_deploy(closed, knock(**PROOF))
    assert groups.may_work(closed, knock(**PROOF))
    assert groups.may_deploy(closed, knock(OWNER))


def test_lists_let_in_without_a_proof_each_for_its_own_purpose() -> None:
    terms = Terms(deploy_access=Access.OWNER, work_access=Access.OWNER, deployers=(FRIEND,), workers=(STRANGER,))
    listed = dataclasses.replace(GROUP, terms=terms)
    assert groups.may_deploy(listed, knock(FRIEND))
    assert not groups.may_work(listed, knock(FRIEND, **PROOF))
    assert groups.may_work(listed, knock(STRANGER))
    assert not groups.may_deploy(listed, knock(STRANGER, **PROOF))


def test_an_address_opens_a_group_by_its_key_or_with_the_id() -> None:
    group = Group(ID, OWNER, join_address=FRIEND)
    by_id = {"joinKey": None, "id": ID}
    assert groups.may_deploy(group, knock(FRIEND, **by_id))
    assert groups.may_deploy(group, knock(**by_id, joinAddress=FRIEND.lower()))
    assert not groups.may_deploy(group, knock(**by_id))
    assert not groups.may_deploy(group, knock(**by_id, joinAddress=STRANGER))
    assert not groups.may_deploy(group, knock(**by_id, joinAddress="no address"))
    assert not groups.may_deploy(group, knock(FRIEND, joinKey=None, id="b" * 22))


def test_what_only_owners_may() -> None:
    groups.require_owner(GROUP, frozenset({OWNER}))
    with pytest.raises(NotPermitted, match="scott belongs to somebody else"):
        groups.require_owner(GROUP, frozenset({STRANGER}))


@pytest.mark.parametrize(
    ("terms", "payment", "before", "why"),
    [
        (Terms(max_total_payment=5), 6, Use(), "at most"),
        (Terms(max_concurrent_jobs=2), 0, Use(jobs=2), "2 jobs at once"),
        (Terms(max_concurrent_escrow=10), 4, Use(escrow=7), "together"),
    ],
)
def test_limits_of_jobs(terms: Terms, payment: int, before: Use, why: str) -> None:
    group = dataclasses.replace(GROUP, terms=terms)
    with pytest.raises(Full, match=why) as caught:
        groups.check_job(group, payment=payment, before=before)
    assert caught.value.code == "EGROUPLIMIT"
    groups.check_job(group, payment=min(payment, 3), before=Use(jobs=1, escrow=7))


def test_limits_of_workers() -> None:
    group = dataclasses.replace(GROUP, terms=Terms(max_concurrent_workers=2, max_concurrent_cpus=8))
    assert groups.has_room_for(group, Use(workers=1, cpus=4), Use(workers=1, cpus=4))
    assert not groups.has_room_for(group, Use(workers=1), Use(workers=2))
    assert not groups.has_room_for(group, Use(workers=1, cpus=4.5), Use(workers=1, cpus=4))
    assert groups.has_room_for(GROUP, Use(workers=1, cpus=1000), Use(workers=10**6))


def test_a_job_goes_the_cheapest_way() -> None:
    dear, cheap = (dataclasses.replace(GROUP, id=one * 22, terms=Terms(commission_rate=rate)) for one, rate in (
        ("d", DCC // 10), ("c", DCC // 20)))  # fmt: skip
    known = {dear.id: dear, cheap.id: cheap}
    both = frozenset(known)
    assert groups.route(both, both, known) == cheap.id
    assert groups.route(both | {PUBLIC_GROUP_ID}, both | {PUBLIC_GROUP_ID}, known) == PUBLIC_GROUP_ID
    assert groups.route(both, frozenset({dear.id, PUBLIC_GROUP_ID}), known) == dear.id
    assert groups.route(both, frozenset({PUBLIC_GROUP_ID}), known) is None


@hypothesis.given(st.integers(0, 10**30), st.integers(0, DCC - 1))
def test_a_commission_is_a_part_of_the_payment(amount: int, rate: int) -> None:
    taken = Commission("g", OWNER, rate).of(amount)
    assert 0 <= taken <= amount
    assert amount * rate - DCC < taken * DCC <= amount * rate


def test_a_group_without_a_rate_takes_nothing() -> None:
    assert groups.commission(GROUP) is None
    assert groups.commission(None) is None
    rate = dataclasses.replace(GROUP, terms=Terms(commission_rate=1, payment_address=FRIEND))
    assert groups.commission(rate) == Commission(ID, FRIEND, 1)


def test_a_new_group_as_clients_describe_it() -> None:
    data = {
        "joinDescriptor": {"joinKey": "scott", "joinHash": f" {SECRET}\n"},
        "name": "Lab",
        "otherProperties": {
            "commissionRate": 0.05, "deployFee": "0.00015", "maxConcurrentJobs": 3, "deployAccess": "owner",
            "maxTotalPayment": None,
        },
    }  # fmt: skip
    group = groups.new_group(data, owner=OWNER, new_id=ID)
    terms = Terms("Lab", "", DCC // 20, 15 * 10**13, max_concurrent_jobs=3, deploy_access=Access.OWNER)
    assert group == Group(ID, OWNER, terms, "scott", SECRET)
    assert "joinHash" not in group.describe() and SECRET not in str(group.describe())
    other = groups.new_group(
        {"joinDescriptor": {"id": "b" * 22, "joinAddress": FRIEND[2:].lower()}}, owner=OWNER, new_id=ID
    )
    assert other == Group("b" * 22, OWNER, join_address=FRIEND)


@pytest.mark.parametrize(
    ("join", "properties", "why"),
    [
        ({}, {}, "joinKey and joinHash"),
        ({"joinKey": "scott"}, {}, "joinKey and joinHash"),
        ({"joinKey": "public", "joinHash": SECRET}, {}, "is taken"),
        ({"joinKey": "scott", "joinHash": "tiger"}, {}, "joinHash"),
        ({"joinKey": "x" * 256, "joinHash": SECRET}, {}, "255"),
        ({"id": "short", "joinAddress": FRIEND}, {}, "joinDescriptor.id"),
        ({"id": PUBLIC_GROUP_ID, "joinAddress": FRIEND}, {}, "public group"),
        ({"id": ID, "joinAddress": "0x12"}, {}, "joinAddress"),
        ({"id": ID, "joinAddress": FRIEND}, {"commissionRate": 1}, "commissionRate is 1; it must be at least 0"),
        ({"id": ID, "joinAddress": FRIEND}, {"commissionRate": -0.1}, "commissionRate"),
        ({"id": ID, "joinAddress": FRIEND}, {"deployFee": "much"}, "deployFee"),
        ({"id": ID, "joinAddress": FRIEND}, {"deployAccess": "all"}, "owner or join"),
        ({"id": ID, "joinAddress": FRIEND}, {"maxConcurrentJobs": 1.5}, "whole number"),
        ({"id": ID, "joinAddress": FRIEND}, {"maxConcurrentCPUs": True}, "whole number"),
        ({"id": ID, "joinAddress": FRIEND}, {"colour": "red"}, "colour is no property"),
        ({"id": ID, "joinAddress": FRIEND}, {"workers": ["nobody"]}, "workers"),
        ({"id": ID, "joinAddress": FRIEND}, [], "object"),
    ],
)
def test_bad_groups_name_the_field(join: dict[str, Any], properties: Any, why: str) -> None:
    data = {"joinDescriptor": join, "otherProperties": properties or {}}
    if properties == []:
        data["otherProperties"] = ["x"]
    with pytest.raises(InvalidInput, match=why):
        groups.new_group(data, owner=OWNER, new_id=ID)


def test_changes() -> None:
    changed = groups.changed_group(GROUP, {"name": "New", "maxConcurrentJobs": 1, "joinAddress": FRIEND})
    assert (changed.terms.name, changed.terms.max_concurrent_jobs, changed.join_address) == ("New", 1, FRIEND)
    assert groups.changed_group(changed, {"maxConcurrentJobs": None}).terms.max_concurrent_jobs is None
    lion = join_hash("scott", "lion")
    assert groups.changed_group(GROUP, {"joinHash": lion}).join_hash == lion
    with pytest.raises(InvalidInput, match="without"):
        groups.changed_group(Group(ID, OWNER, join_address=FRIEND), {"joinHash": lion})
    with pytest.raises(InvalidInput, match="joinKey is no property"):
        groups.changed_group(GROUP, {"joinKey": "other"})


_amounts = st.none() | st.integers(0, 10**30)
_counts = st.none() | st.integers(0, 2**53 - 1)


@hypothesis.given(
    st.builds(
        Terms,
        name=st.text(max_size=20), description=st.text(max_size=20), commission_rate=st.integers(0, DCC - 1),
        deploy_fee=st.integers(0, 10**30), add_job_fee=st.integers(0, 10**30),
        payment_address=st.none() | st.just(FRIEND), deploy_access=st.sampled_from(Access),
        work_access=st.sampled_from(Access), deployers=st.sampled_from([(), (OWNER,), (OWNER, FRIEND)]),
        workers=st.sampled_from([(), (STRANGER,)]), max_total_payment=_amounts, max_concurrent_jobs=_counts,
        max_concurrent_workers=_counts, max_concurrent_sandboxes=_counts, max_concurrent_cpus=_counts,
        max_concurrent_gpus=_counts, max_concurrent_escrow=_amounts,
    )
)  # fmt: skip
def test_terms_are_read_as_they_were_written(terms: Terms) -> None:
    assert groups.change_terms(Terms(), terms.to_json(), "terms") == terms
