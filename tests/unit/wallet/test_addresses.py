import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.wallet import addresses

ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
# From the text of EIP-55.
KNOWN = [
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
]


@pytest.mark.parametrize("address", KNOWN)
def test_known_checksums(address: str) -> None:
    for form in (address, address[2:], address.lower(), address[2:].lower(), "0x" + address[2:].upper()):
        assert addresses.checksum(form) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "40 hex digits"),
        ("0X" + ADDRESS[2:], "40 hex digits"),
        (ADDRESS[:-1], "40 hex digits"),
        (ADDRESS + "\n", "40 hex digits"),
        (ADDRESS + "0", "40 hex digits"),
        ("0x2C7536E3605D9C16a7a3D7b1898e529396a65c23", "Bad checksum for address"),
        (ADDRESS.swapcase().replace("X", "x"), "Bad checksum for address"),
        (12, "not int"),
        (None, "not NoneType"),
        (ADDRESS.encode(), "not bytes"),
    ],
)
def test_refused_with_a_reason(text: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        addresses.checksum(text)
    assert not addresses.is_address(text)


def test_a_giant_value_is_not_repeated_in_the_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        addresses.checksum("x" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.binary(min_size=20, max_size=20), st.integers(0, 39))
@settings(max_examples=200)
def test_one_letter_in_the_wrong_case_is_noticed(raw: bytes, position: int) -> None:
    address = addresses.checksum(raw.hex())
    assert addresses.checksum(address) == address
    digits = address[2:]
    changed = digits[:position] + digits[position].swapcase() + digits[position + 1 :]
    if changed not in (digits, digits.lower(), digits.upper()):
        assert not addresses.is_address("0x" + changed)
