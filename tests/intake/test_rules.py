"""Splits, duplicates, personal data, language: pure functions."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.intake.corpus import pieces
from preceptor.intake.dedup import CommonPrefix, NearDuplicates, shingles
from preceptor.intake.language import guess_language
from preceptor.intake.pii import find, iban, luhn, mask
from preceptor.intake.splits import split_of


def test_splits_are_stable_and_in_proportion():
    assert [split_of(f"user{n}") for n in range(12)] == [split_of(f"user{n}") for n in range(12)]
    counts = Counter(split_of(f"user{n}") for n in range(20_000))
    assert abs(counts["train"] / 20_000 - 0.8) < 0.01  # three standard errors are 0.0085
    assert abs(counts["valid"] / 20_000 - 0.1) < 0.01
    assert split_of("anyone", {"train": 0.0, "valid": 1.0, "test": 0.0}) == "valid"


def test_more_training_share_moves_nobody_out_of_training():
    small, large = {"train": 0.5, "valid": 0.25, "test": 0.25}, {"train": 0.7, "valid": 0.2, "test": 0.1}
    for n in range(500):
        if split_of(str(n), small) == "train":
            assert split_of(str(n), large) == "train"


def test_common_prefix():
    seen = CommonPrefix()
    long = "x" * 200
    assert seen.find_or_add("a", long + "1") is None
    assert seen.find_or_add("b", long + "2") == "a"
    assert seen.find_or_add("a", long + "1") is None  # the same prompt again is not its own duplicate
    assert seen.find_or_add("c", long[:-1] + "2") is None
    assert seen.find_or_add("d", "Hello  World") is None
    assert seen.find_or_add("e", "hello world") == "d"
    assert seen.find_or_add("f", "hello world and more") is None


def jaccard(one, two):
    one, two = set(shingles(one)), set(shingles(two))
    return len(one & two) / len(one | two)


def test_near_duplicates_against_exact_similarity():
    """Every pair clearly above the threshold is found, none clearly below it."""
    draw = random.Random(0)
    seen = NearDuplicates(0.9)
    texts = {}
    for n in range(60):
        words = [f"w{draw.randrange(10_000)}" for _ in range(400)]
        texts[f"t{n}"] = words
        assert seen.find_or_add(f"t{n}", " ".join(words)) is None
    for n, changes in [(n, changes) for n in range(60) for changes in (1, 30)]:
        words = list(texts[f"t{n}"])
        for place in draw.sample(range(400), changes):
            words[place] = "changed"
        similarity = jaccard(" ".join(words), " ".join(texts[f"t{n}"]))
        found = seen.find_or_add(f"t{n}-{changes}", " ".join(words))
        assert found == (f"t{n}" if changes == 1 else None), similarity
        assert similarity > 0.97 or similarity < 0.6


# Public test numbers: the card from the payment industry's test sets, the IBANs from the registry's examples.
PERSONAL = [
    ("Write to ana.b+c@mail.example.org!", "email"),
    ("card 4111 1111 1111 1111 now", "card"),
    ("card 378282246310005.", "card"),
    ("to GB29 NWBK 6016 1331 9268 19 today", "iban"),
    ("to DE89370400440532013000", "iban"),
    ("server 8.8.8.8:53", "ip"),
    ("server 2001:4860:4860::8888 is", "ip"),
    ("call +44 20 7946 0958", "phone"),
    ("call +49 (30) 901820", "phone"),
    ("call (212) 555-0143.", "phone"),
    ("call 1-800-555-0199", "phone"),
    ("call 030/9018 2000", "phone"),
    ("SSN 219-09-9999", "us-ssn"),
    ("NI AB 12 34 56 C", "uk-nino"),
    ("DNI 12345678Z", "es-dni"),
    ("tax 86095742719 paid", "de-tax"),
]


@pytest.mark.parametrize(("text", "kind"), PERSONAL)
def test_personal_data_is_found(text, kind):
    assert [finding.kind for finding in find(text)] == [kind]
    assert f"[{kind}]" in mask(text)
    assert not find(mask(text))


HARMLESS = [
    "In 1999, 3,141,592 people paid $1,234,567.89 for 2-3 things.",
    "card 4111 1111 1111 1112 has a wrong checksum",
    "GB29 NWBK 6016 1331 9268 18 has a wrong checksum",
    "14000-3920-1000=9080",
    "version 1.2.3 of 127.0.0.1 and 192.168.0.1",
    "SSN 000-12-3456 and 666-12-3456 were never given out",
    "pi is 3.14159265358979 and e is 2.71828182845905",
    "at 12:30:45 on 2024-05-17, rooms 101-205",
    "x@y and @name and 100 @ 5",
    "ISBN 978-3-16-148410-0",
    "12345678A has a wrong letter; 86095742718 a wrong digit",
    "0.5 0.25 0.125 1/3 2/3 100 200 300",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_numbers_are_left_alone(text):
    assert find(text) == []
    assert mask(text) == text


def test_checksums():
    assert luhn("79927398713")
    assert sum(luhn(f"7992739871{digit}") for digit in range(10)) == 1
    assert iban("GB82 WEST 1234 5698 7654 32")
    assert not iban("GB82 WEST 1234 5698 7654 33")


def test_masking_counts_kinds():
    counts = Counter()
    assert mask("a@b.org, c@d.org and 8.8.4.4", counts) == "[email], [email] and [ip]"
    assert counts == {"email": 2, "ip": 1}


@given(st.text(max_size=300))
def test_masking_any_text_ends(text):
    mask(text)
    guess_language(text)


def test_languages():
    assert guess_language("What is the capital of France and how do I get to it?") == "en"
    assert guess_language("Wie ist das Wetter und was kann ich mit der Familie machen?") == "de"
    assert guess_language("Quelle est la capitale de la France et que faire dans les rues ?") == "fr"
    assert guess_language("¿Cuál es la capital de España y por qué los museos son para una visita?") == "es"
    assert guess_language("Какая столица у России?") == "cyrillic"
    assert guess_language("日本の首都はどこですか") == "ja"
    assert guess_language("法国的首都是哪里") == "zh"
    assert guess_language("12 + 34 = ?") is None
    assert guess_language("xyzzy plugh") is None


@given(st.lists(st.text(alphabet="ab \n", max_size=40), max_size=20), st.integers(5, 50))
def test_pieces_lose_nothing_but_white_space(parts, limit):
    text = "\n\n".join(parts)
    found = list(pieces(text, limit))
    assert all(len(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_end_where_paragraphs_do():
    assert list(pieces("one two\n\nthree\n\nfour five", 18)) == ["one two\n\nthree", "four five"]
    assert list(pieces("a" * 25, 10)) == ["a" * 10, "a" * 10, "a" * 5]
