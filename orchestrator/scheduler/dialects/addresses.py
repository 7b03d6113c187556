"""Pure: the address of a job, by which the v4 dialect calls it.

A job id is 22 letters and digits, fewer than 2^132 possibilities; an address has 160 bits. So the address is the id
itself, written as a number before a fixed tag: nothing needs to be kept to go either way, and nobody has a key for it.
The tag is at the end because people see the first letters.
"""

from __future__ import annotations

import string
from typing import Final

from orchestrator.wallet.addresses import checksum

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_BASE: Final = len(_DIGITS)
_ID_LENGTH: Final = 22
_TAG: Final = 0xDC900B
_TAG_BITS: Final = 24


def job_address(job_id: str) -> str:
    """The checksummed address of a job id of 22 letters and digits."""
    number = 0
    for digit in job_id:
        number = number * _BASE + _VALUES[digit]
    return checksum(f"{number << _TAG_BITS | _TAG:040x}")


def job_id(name: str) -> str:
    """The job id that an address in any spelling stands for; everything else as it is, for a job may be called by its
    id as well."""
    text = name[2:] if name[:2] in ("0x", "0X") else name
    if len(text) != 40:
        return name
    try:
        value = int(text, 16)
    except ValueError:
        return name
    number, tag = divmod(value, 1 << _TAG_BITS)
    if tag != _TAG or number >= _BASE**_ID_LENGTH:
        return name
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, _BASE)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
