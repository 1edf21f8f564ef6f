"""Personal data masked: addresses of people and machines, phone and identity numbers.

Rules find what has a form. Names, postal addresses and passwords have none and stay; a corpus
built here is not anonymous.
"""

from __future__ import annotations

import re

from sapwood.corpora.draft import Draft, counted

# Only ASCII letters bound what is looked for: Chinese sets no spaces around it.
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-])"
)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
IPV4 = re.compile(rf"(?<![A-Za-z0-9.])(?:{_OCTET}\.){{3}}{_OCTET}(?![A-Za-z0-9]|\.[0-9])")
# +44 20 7946 0958; (212) 555-0100; 212-555-0100. Digits alone may be anything and stay.
PHONE = re.compile(
    r"(?<![A-Za-z0-9+.-])\+[0-9]{1,3}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9]{1,4}"
    r"(?:[ .-]?[0-9]{2,4}){2,4}(?![A-Za-z0-9-])"
    r"|(?<![A-Za-z0-9-])\([0-9]{3}\) ?[0-9]{3}[-. ][0-9]{4}(?![A-Za-z0-9-])"
    r"|(?<![A-Za-z0-9.-])[0-9]{3}[-.][0-9]{3}[-.][0-9]{4}(?![A-Za-z0-9-])"
)
# Mainland numbers: 1[3-9] and nine digits, with or without +86, in the usual groups.
MOBILE = re.compile(r"(?<![0-9.-])(?:\+?86[- ]?)?1[3-9][0-9](?:[- ]?[0-9]{4}){2}(?![0-9-])")
IDENTITY = re.compile(
    r"(?<![0-9])[1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    r"[0-9]{3}[0-9Xx](?![A-Za-z0-9])"
)
# ISO 7064, MOD 11-2, as GB 11643-1999 prescribes.
WEIGHTS, CHECKS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), "10X98765432"


def mask(draft: Draft) -> Draft:
    """Return the draft with personal data replaced by words in brackets, and counted."""
    text, found = masked(draft.text)
    return counted(draft, text, found) if found else draft


def masked(text: str) -> tuple[str, dict[str, int]]:
    """Return (text with the data masked, how many of each kind); masking twice changes nothing.

    >>> masked("Write to a.b@c.org or 13800138000.")
    ('Write to [email] or [phone].', {'email': 1, 'phone': 1})
    """
    counts: dict[str, int] = {}

    def told(name: str) -> str:
        counts[name] = counts.get(name, 0) + 1
        return f"[{name}]"

    if "@" in text:
        text = EMAIL.sub(lambda _: told("email"), text)
    if not any(map(str.isdigit, text)):
        return text, counts
    text = IDENTITY.sub(lambda m: told("identity") if is_identity(m[0]) else m[0], text)
    text = IPV4.sub(lambda m: told("address") if _is_address(m[0]) else m[0], text)
    text = MOBILE.sub(lambda _: told("phone"), text)
    text = PHONE.sub(lambda _: told("phone"), text)
    return text, counts


def is_identity(number: str) -> bool:
    """Tell whether 18 digits carry the check digit of a Chinese identity number.

    >>> is_identity("11010519491231002X"), is_identity("110105194912310021")
    (True, False)
    """
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], WEIGHTS, strict=True))
    return CHECKS[total % 11] == number[17].upper()


def _is_address(number: str) -> bool:
    """Tell addresses of the internet from versions (1.2.3.4) and addresses that name no one."""
    parts = [int(part) for part in number.split(".")]
    if max(parts) < 10 or parts[0] in (0, 10, 127) or parts[0] >= 224:
        return False
    return not (parts[:2] == [192, 168] or (parts[0] == 172 and 16 <= parts[1] < 32))
