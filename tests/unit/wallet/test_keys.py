import pickle

import pytest
from eth_keys import keys as eth_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.wallet import keys

SECRET = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

# Made by dcp-client 5.6.1 with the key above: the text of a message body, r, s, v.
VECTORS = [
    (
        '{"a":1}',
        "babbd9cf498cdf8fd558ff42aeac88a0a9af5c52c5e686d38fb0aff53160181f",
        "2c20218c055482936bdc63fcf98912e537a7c06391d53650b6c58da61d7042cd",
        27,
    ),
    (
        '{"type":"ack","token":"x","nonce":"é中😀\\ud800"}',
        "7cd03b93fa080c88e833df4946423ed926c5e0886b048605221076068b354258",
        "0c965bd0ff4c367ccb4747fde9444c1ae3f9a3081584c634d3781438798bbb1a",
        27,
    ),
    (
        "[1.5,1e+21,0,1e-7]",
        "ed87bfe7ecf6470383a43234c22d8bfca5a60daafeb979e54820985c603d3184",
        "1d6359b09b1ca8d703fd227944127dacb7d25f4af513822dcb3c9fc296f45c4c",
        28,
    ),
    (
        '{"b":{"2":2,"10":1,"n":null}}',
        "f6e9f0190dfb502517b8f683d58c3158569e06d07ed034bc0cc09d03dd151c1d",
        "2d84fbf87ee26b64464ba12fd17bc15987bde9ed9771f8e43cf1102ab43b603c",
        27,
    ),
]


@pytest.mark.parametrize(("text", "r", "s", "v"), VECTORS)
def test_signatures_equal_those_of_dcp_client(text: str, r: str, s: str, v: int) -> None:
    signature = keys.PrivateKey.from_hex(SECRET).sign_message(text.encode())
    assert (signature.r.hex(), signature.s.hex(), signature.v) == (r, s, v)
    assert keys.recover(keys.message_digest(text.encode()), *signature) == ADDRESS


def test_the_address_and_the_forms_of_a_key() -> None:
    for text in (SECRET, SECRET[2:], SECRET[2:].upper(), "0x" + SECRET[2:].upper()):
        key = keys.PrivateKey.from_hex(text)
        assert key.address == ADDRESS
        assert key.to_hex() == SECRET
        assert key == keys.PrivateKey(bytes.fromhex(SECRET[2:]))
    assert keys.PrivateKey.generate() != keys.PrivateKey.generate()


@pytest.mark.parametrize(
    "text", ["", "0x", SECRET[:-1], SECRET + "0", "0X" + SECRET[2:], "z" * 64, "0" * 64, hex(ORDER)]
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        keys.PrivateKey.from_hex(text)
    assert len(text) < 10 or text not in str(caught.value)


def test_the_secret_is_not_shown_or_pickled() -> None:
    key = keys.PrivateKey.from_hex(SECRET)
    assert SECRET[2:] not in f"{key!r} {key} {[key]}"
    with pytest.raises(TypeError, match="keystore"):
        pickle.dumps(key)
    with pytest.raises(AttributeError):
        key.address = ADDRESS  # type: ignore[misc]


def test_both_forms_of_v_and_the_high_s_are_accepted() -> None:
    key = keys.PrivateKey.from_hex(SECRET)
    digest = keys.keccak256(b"x")
    r, s, v = key.sign_digest(digest)
    high = (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    assert keys.recover(digest, r, s, v - 27) == key.address
    assert keys.recover(digest, r, high, 55 - v) == key.address


@pytest.mark.parametrize(
    ("r", "s", "v"),
    [
        (b"\0" * 32, b"\1" * 32, 27),
        (b"\xff" * 32, b"\1" * 32, 27),
        (b"\1" * 32, b"\xff" * 32, 28),
        (b"\1" * 32, b"\0" * 32, 28),
        (b"\1" * 31, b"\1" * 32, 27),
        (b"\1" * 32, b"\1" * 33, 27),
        (b"\1" * 32, b"\1" * 32, 29),
        (b"\1" * 32, b"\1" * 32, -1),
        (b"\1" * 32, b"\1" * 32, 2),
    ],
)
def test_impossible_signatures_raise_one_error(r: bytes, s: bytes, v: int) -> None:
    with pytest.raises(keys.InvalidSignature):
        keys.recover(b"\2" * 32, r, s, v)


@given(st.integers(1, ORDER - 1), st.binary(max_size=200))
@settings(max_examples=10, deadline=None)
def test_the_same_as_eth_keys(secret: int, message: bytes) -> None:
    ours = keys.PrivateKey(secret.to_bytes(32, "big"))
    theirs = eth_keys.PrivateKey(secret.to_bytes(32, "big"))
    digest = keys.message_digest(message)
    signature = theirs.sign_msg_hash(digest)
    expected = (signature.r.to_bytes(32, "big"), signature.s.to_bytes(32, "big"), 27 + signature.v)
    assert ours.sign_digest(digest) == expected
    assert ours.address == theirs.public_key.to_checksum_address()


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(27, 28), st.binary(max_size=9)
)
@settings(max_examples=100)
def test_garbage_recovers_to_an_address_or_raises(r: bytes, s: bytes, v: int, message: bytes) -> None:
    try:
        address = keys.recover(keys.message_digest(message), r, s, v)
    except keys.InvalidSignature:
        return
    assert keys.addresses.is_address(address)
