"""Transactions as eth-account makes them, and what is paid for their gas."""

from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bank.ethereum import flights
from orchestrator.bank.ethereum.transactions import Call, Fees, hash_of, rlp, signed
from orchestrator.wallet.keys import PrivateKey

KEY = PrivateKey(b"\x21" * 32)
CONTRACT = PrivateKey(b"\x22" * 32).address

numbers = st.integers(0, 2**63)
calls = st.builds(
    Call,
    chain_id=st.integers(1, 2**40),
    nonce=numbers,
    contract=st.just(CONTRACT),
    data=st.binary(max_size=70).map(lambda data: "0x" + data.hex()),
    gas=numbers,
    fees=st.builds(Fees, numbers, st.none() | numbers),
)


@given(calls)
def test_signed_as_eth_account_signs(call: Call) -> None:
    fields = {
        "chainId": call.chain_id, "nonce": call.nonce, "to": call.contract, "data": call.data, "gas": call.gas,
        "value": 0,
    }  # fmt: skip
    if call.fees.tip is None:
        fields["gasPrice"] = call.fees.most
    else:
        fields |= {"type": 2, "maxFeePerGas": call.fees.most, "maxPriorityFeePerGas": call.fees.tip}
    theirs = Account.sign_transaction(fields, KEY.secret)
    ours = signed(call, KEY)
    assert ours == bytes(theirs.raw_transaction)
    assert hash_of(ours) == "0x" + theirs.hash.hex().removeprefix("0x")


def test_long_and_short_items() -> None:
    assert rlp([]) == b"\xc0"
    assert rlp(0) == b"\x80"
    assert rlp(b"\x00") == b"\x00"
    assert rlp(b"a" * 56) == b"\xb8\x38" + b"a" * 56
    assert rlp([b"a" * 60]) == b"\xf8\x3e\xb8\x3c" + b"a" * 60


@given(st.builds(Fees, st.integers(1, 10**15), st.integers(0, 10**12)), st.builds(Fees, numbers, numbers))
def test_what_takes_anothers_place_pays_a_tenth_more(before: Fees, now: Fees) -> None:
    most = 10**13
    new = flights.raised(before, now, most)
    if new is None:
        assert before.most * 9 // 8 + 1 > most
        return
    assert new.tip is not None
    assert before.tip is not None
    assert new.most * 10 >= before.most * 11
    assert new.tip * 10 >= before.tip * 11 or new.tip == most
    assert new.tip <= new.most <= most


def test_a_chain_without_a_base_fee_has_one_price() -> None:
    assert flights.raised(Fees(80, None), Fees(100, None), 1000) == Fees(100, None)
    assert flights.raised(Fees(80, None), Fees(80, None), 1000) == Fees(91, None)
    assert flights.raised(Fees(80, None), Fees(80, None), 90) is None
    assert flights.limited(Fees(80, 70), 60) == Fees(60, 60)
