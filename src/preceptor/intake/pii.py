"""Personal data found by patterns and checksums, and masked in training text (paper, appendix A.2).

A pattern alone would take prices and years for telephone numbers, so where a kind of number has a checksum it must
hold. What has neither pattern nor checksum (names, street addresses) is not found here.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` of what stands at text[start:end]."""

    kind: str
    start: int
    end: int


def luhn(digits: str) -> bool:
    """The checksum of payment cards (ISO/IEC 7812-1): "4111111111111111" -> True."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(value: str) -> bool:
    """The checksum of IBANs (ISO 13616): the letters as numbers, rotated by four, leave 1 modulo 97."""
    compact = value.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


def us_social_security(value: str) -> bool:
    """Area, group and serial numbers that are never given out are refused."""
    area, group, serial = value.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def uk_insurance(value: str) -> bool:
    """Prefixes that are never given out are refused."""
    prefix = value[:2].upper()
    return prefix not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def german_tax(value: str) -> bool:
    """The check digit of the German tax number (ISO 7064, MOD 11,10)."""
    product = 10
    for digit in value[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(value[10]) and len(set(value[:10])) in (8, 9)


def spanish(value: str) -> bool:
    """The letter of a Spanish DNI or NIE follows from the number modulo 23."""
    number = value[:-1].upper().translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == value[-1].upper()


def _card(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _phone(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 8 <= len(digits) <= 15


def _address(value: str) -> bool:
    """An address of the Internet that could be somebody's: not of this machine or a private network."""
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


# Thirteen to nineteen digits in one run, or in the groups that are printed on cards.
_CARD = r"(?<![\d.,-])(?:[3-6]\d{12,18}|[3-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5})(?![\d-]|[.,]\d)"

# Kind, pattern, and the check that a match must pass. Where two overlap, the earlier kind wins.
_PATTERNS = (
    ("email", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"), None),
    ("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), iban),
    ("card", re.compile(_CARD), _card),
    ("us-ssn", re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), us_social_security),
    ("uk-nino", re.compile(r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b"), uk_insurance),
    ("es-dni", re.compile(r"\b[XYZ\d]\d{7}-?[A-Z]\b"), lambda value: spanish(value.replace("-", ""))),
    ("de-tax", re.compile(r"(?<![\d.,])[1-9]\d{10}(?![\d.,]?\d)"), german_tax),
    ("ip", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"), _address),
    ("ip", re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![\w:])"), _address),
    ("phone", re.compile(r"(?<![\w+.,])\+\d{1,3}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{2,4}){2,5}(?!\w)"), _phone),
    ("phone", re.compile(r"(?<![\w.,-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-]|[.,]\d)"), _phone),
    ("phone", re.compile(r"(?<![\w.,-])0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}(?![\w-]|[.,]\d)"), _phone),
)


def find(text: str, more: Callable[[str], Iterable[Finding]] = lambda text: ()) -> list[Finding]:
    """What looks like personal data, in order of place, without overlaps.

    `more` finds further things (names, see `preceptor.intake.names`); where they overlap, the patterns here win.
    """
    taken: list[Finding] = []
    for finding in chain(_matches(text), more(text)):
        if all(finding.end <= other.start or finding.start >= other.end for other in taken):
            taken.append(finding)
    return sorted(taken, key=lambda finding: finding.start)


def _matches(text: str) -> Iterator[Finding]:
    for kind, pattern, check in _PATTERNS:
        for match in pattern.finditer(text):
            if check is None or check(match.group()):
                yield Finding(kind, match.start(), match.end())


def kinds(text: str) -> list[str]:
    """The kinds of personal data in a text, sorted."""
    return sorted({finding.kind for finding in find(text)})


def mask(
    text: str,
    counts: Counter[str] | None = None,
    more: Callable[[str], Iterable[Finding]] = lambda text: (),
) -> str:
    """The text with each finding replaced by its kind: "call +44 20 7946 0958" -> "call [phone]".

    Adds how many of each kind there were to `counts`. Masked text has no more findings of the patterns. `more`: see
    `find`.
    """
    parts, start = [], 0
    for finding in find(text, more):
        parts += [text[start : finding.start], f"[{finding.kind}]"]
        start = finding.end
        if counts is not None:
            counts[finding.kind] += 1
    return "".join([*parts, text[start:]])
