import pytest

from orchestrator.bank.amounts import MAX_AMOUNT
from orchestrator.bank.chain import Opening
from orchestrator.bank.ledger import (
    ISSUANCE,
    MAX_BALANCE,
    Account,
    AccountKind,
    Book,
    HoldClosed,
    IdReused,
    Payment,
    PostingKind,
)
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound


def book(**balances: int) -> Book:
    return Book([Account(name, AccountKind.ADDRESS, balance) for name, balance in balances.items()])


def state(it: Book) -> object:
    return (
        {name: account.balance for name, account in it.accounts.items()},
        list(it.postings),
        [(hold.id, hold.is_open) for hold in it.holds.values()],
        len(it.opened),
    )


def test_a_transfer_moves_money_once() -> None:
    it = book(a=10)
    first = it.transfer("t", "a", "b", 4)
    assert it.transfer("t", "a", "b", 4) == first
    assert it.transfer("t", "a", "b", None) == first
    assert (it.balance("a"), it.balance("b"), len(it.postings)) == (6, 4, 1)
    for target, amount in (("c", 4), ("b", 5)):
        with pytest.raises(IdReused):
            it.transfer("t", "a", target, amount)
    it.transfer("t", "b", "a", 1)  # another account's ids are its own


def test_transfer_all() -> None:
    it = book(a=10)
    assert it.transfer("t", "a", "b", None).amount == 10
    with pytest.raises(NotEnoughFunds):
        it.transfer("u", "a", "b", None)
    with pytest.raises(NotEnoughFunds):
        it.transfer("v", "nobody", "b", None)


def test_not_enough_funds_says_what_is_needed() -> None:
    it = book(a=1_500_000_000_000_000_000)
    with pytest.raises(NotEnoughFunds) as caught:
        it.transfer("t", "a", "b", 3 * 10**18)
    assert caught.value.code == "ENOFUNDS"
    assert caught.value.info == {"account": "a", "needed": "3", "available": "1.5"}
    assert "has 1.5 DCC but 3 DCC are needed" in caught.value.message


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_impossible_amounts(amount: int) -> None:
    it = book(a=10)
    before = state(it)
    with pytest.raises(InvalidInput):
        it.transfer("t", "a", "b", amount)
    with pytest.raises(InvalidInput):
        it.transfer("u", "a", "a", 1)
    if amount:
        with pytest.raises(InvalidInput):
            it.hold("h", "a", amount)
    assert state(it) == before


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "\0"])
def test_impossible_ids(text: str) -> None:
    it = book(a=10)
    with pytest.raises(InvalidInput):
        it.transfer(text, "a", "b", 1)
    with pytest.raises(InvalidInput):
        it.hold(text, "a", 1)
    it.hold("h", "a", 5)
    with pytest.raises(InvalidInput):
        it.pay("h", [Payment(text, "w", 1)])
    with pytest.raises(InvalidInput):
        it.add_to_hold("h", text, 1)


def test_the_life_of_a_hold() -> None:
    it = book(a=100)
    assert it.hold("h", "a", 60) and not it.hold("h", "a", 60)
    assert it.add_to_hold("h", "more", 20) and not it.add_to_hold("h", "more", 20)
    assert it.pay("h", [Payment("1", "w", 10), Payment("2", "v", 5), Payment("1", "w", 10), Payment("3", "w", 0)]) == 15
    assert it.pay("h", [Payment("2", "v", 5), Payment("4", "w", 1)]) == 1
    assert it.release("h") == 64
    assert it.release("h") == 0
    assert {name: it.balance(name) for name in "awv"} == {"a": 84, "w": 11, "v": 5}
    assert it.pay("h", [Payment("1", "w", 10)]) == 0  # a repeated message after the end
    for refused in (lambda: it.pay("h", [Payment("5", "w", 1)]), lambda: it.add_to_hold("h", "x", 1)):
        with pytest.raises(HoldClosed):
            refused()
    assert [posting.kind for posting in it.postings[-2:]] == [PostingKind.PAYMENT, PostingKind.RELEASE]
    it.validate()


def test_a_refused_operation_changes_nothing() -> None:
    it = book(a=100)
    it.hold("h", "a", 10)
    it.pay("h", [Payment("1", "w", 1)])
    before = state(it)
    for error, refused in (
        (NotEnoughFunds, lambda: it.pay("h", [Payment("2", "w", 5), Payment("3", "new", 5)])),
        (IdReused, lambda: it.pay("h", [Payment("2", "w", 1), Payment("1", "w", 2)])),
        (IdReused, lambda: it.pay("h", [Payment("2", "w", 1), Payment("2", "other", 1)])),
        (InvalidInput, lambda: it.pay("h", [Payment("2", "w", 1), Payment("3", "w", -1)])),
        (InvalidInput, lambda: it.pay("h", [Payment("2", "escrow:h", 1)])),
        (NotEnoughFunds, lambda: it.hold("g", "a", 91)),
        (NotEnoughFunds, lambda: it.add_to_hold("h", "x", 91)),
        (IdReused, lambda: it.hold("h", "a", 11)),
        (IdReused, lambda: it.hold("h", "w", 10)),
        (NotFound, lambda: it.pay("g", [])),
        (NotFound, lambda: it.release("g")),
        (InvalidInput, lambda: it.credit("b", MAX_AMOUNT + 1)),
    ):
        with pytest.raises(error):
            refused()
        assert state(it) == before


def test_a_hold_of_nothing() -> None:
    it = book()
    assert it.hold("h", "a", 0) and not it.hold("h", "a", 0)
    assert (it.postings, it.openings) == ([], [Opening("h", "escrow:h", "a")])
    with pytest.raises(NotEnoughFunds):
        it.pay("h", [Payment("1", "w", 1)])
    assert it.pay("h", [Payment("1", "w", 0)]) == 0
    assert it.release("h") == 0


def test_credit_comes_once_and_from_the_issuance_account() -> None:
    it = book(a=3)
    assert it.credit("a", 10) and not it.credit("a", 10) and not it.credit("a", 99)
    assert not it.credit("b", 0)
    assert (it.balance("a"), it.balance("b"), it.balance(ISSUANCE)) == (13, 0, -10)
    it.validate()


def test_no_account_grows_beyond_what_the_database_holds() -> None:
    it = Book([Account("a", AccountKind.ADDRESS, MAX_BALANCE), Account("b", AccountKind.ADDRESS, 1)])
    with pytest.raises(InvalidInput, match="cannot hold more"):
        it.transfer("t", "b", "a", 1)
