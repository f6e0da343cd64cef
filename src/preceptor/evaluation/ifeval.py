"""Instructions whose following a program can check: the 25 types of IFEval (Zhou et al. 2023, arXiv 2311.07911).

The meaning of each type is that of the released data. Where theirs leans on a library, ours is plainer: a word is a
run of letters, digits and underscores; sentences end at . ! ? before a space, except after common abbreviations,
initials and inside numbers; languages are told by `language.py`. Checks are strict (the answer as it stands) or loose
(any of eight readings of it: without stars, without its first or last line).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.evaluation.language import language_of
from preceptor.evaluation.reading import read_json_lines

Check = Callable[..., bool]


def _holds(count: int, relation: str, wanted: int) -> bool:
    """`relation`: "at least" or "less than"; nothing else occurs in the data."""
    if relation == "at least":
        return count >= wanted
    if relation == "less than":
        return count < wanted
    raise ValueError(f"relation is {relation!r}; it is 'at least' or 'less than'")


# Keywords: a keyword is looked for as a regular expression anywhere, so "war" is found in "warm"; forbidden words
# are whole words. Both as in the released definitions.


def has_keywords(answer: str, keywords: list[str]) -> bool:
    return all(re.search(keyword, answer, re.IGNORECASE) for keyword in keywords)


def keyword_frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(keyword, answer, re.IGNORECASE)), relation, frequency)


def no_forbidden_words(answer: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Capitals count too."""
    return _holds(answer.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(answer: str, language: str) -> bool:
    return language_of(answer) == language


def number_words(answer: str, num_words: int, relation: str) -> bool:
    return _holds(len(re.findall(r"\w+", answer)), relation, num_words)


_NO_END = r"(?:\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|no|fig|inc|ltd|co|approx|u\.s|a\.m|p\.m)|\b[a-z])\.$"


def sentences(text: str) -> list[str]:
    """The sentences of a text; what follows the last full stop is one too. Line breaks end none."""
    flat, start, found = " ".join(text.split()), 0, []
    for match in re.finditer(r"[.!?]+[\"'”’)*\]]*(?=\s|$)", flat):
        if re.search(_NO_END, flat[start : match.end()], re.IGNORECASE) and match.end() < len(flat):
            continue
        found.append(flat[start : match.end()].strip())
        start = match.end()
    return found + ([rest] if (rest := flat[start:].strip()) else [])


def number_sentences(answer: str, num_sentences: int, relation: str) -> bool:
    return _holds(len(sentences(answer)), relation, num_sentences)


def number_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Paragraphs are separated by ***. One that is empty in the middle fails; at either end it does not count."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    if any(not part for part in parts[1:-1]):
        return False
    return sum(bool(part) for part in parts) == num_paragraphs


def nth_paragraph_first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are separated by blank lines; the first word is read up to its first punctuation."""
    parts = answer.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > len(parts):
        return False
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    return re.split(r"[.,?!'\"]", words[0].lstrip("'\""))[0].lower() == first_word.lower()


def number_placeholders(answer: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def postscript(answer: str, postscript_marker: str) -> bool:
    """P.S. and P.P.S are found with or without spaces; capitals do not matter."""
    patterns = {"P.P.S": r"p\.\s?p\.\s?s.*$", "P.S.": r"p\.\s?s\..*$"}
    pattern = patterns.get(postscript_marker, re.escape(postscript_marker.lower()) + ".*$")
    return bool(re.search(pattern, answer.lower(), re.MULTILINE))


def number_bullet_lists(answer: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with a single * or with -."""
    stars = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(answer: str) -> bool:
    return any(f"My answer is {choice}." in answer for choice in ("yes", "no", "maybe"))


def number_highlighted_sections(answer: str, num_highlights: int) -> bool:
    """Spans between stars on one line, *so* or **so**, that are not empty."""
    single = [span for span in re.findall(r"\*[^\n\*]*\*", answer) if span.strip("*").strip()]
    double = [span for span in re.findall(r"\*\*[^\n\*]*\*\*", answer) if span[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings: the splitter and a number."""
    return len(re.findall(rf"\s?{section_spliter}\s?\d+\s?", answer)) >= num_sections


def json_format(answer: str) -> bool:
    """The whole answer is JSON, a ``` fence around it allowed."""
    bare = re.sub(r"^```(?:json|JSON|Json)?", "", answer.strip())
    try:
        json.loads(bare.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(answer: str) -> bool:
    return any(found.strip("<>").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def two_responses(answer: str) -> bool:
    """Two different answers with six stars between them; a separator at either end is forgiven."""
    parts = [part.strip() for part in answer.split("******")]
    if any(not part for part in parts[1:-1]):
        return False
    said = [part for part in parts if part]
    return len(said) == 2 and said[0] != said[1]


def repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(answer: str, capital_relation: str, capital_frequency: int) -> bool:
    """Words wholly in capitals, hyphens and apostrophes inside; "I" is one."""
    words = re.findall(r"\w+(?:['’.-]\w+)*", answer)
    return _holds(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def english_capital(answer: str) -> bool:
    return answer.isupper() and language_of(answer) in ("en", None)


def english_lowercase(answer: str) -> bool:
    return answer.islower() and language_of(answer) in ("en", None)


def no_comma(answer: str) -> bool:
    return "," not in answer


def quotation(answer: str) -> bool:
    bare = answer.strip()
    return len(bare) > 1 and bare[0] == '"' == bare[-1]


CHECKS: Mapping[str, Check] = {
    "keywords:existence": has_keywords,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
    "startend:quotation": quotation,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Constrained:
    """A prompt and its instructions: (type, arguments of its check)."""

    key: int
    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


def read(path: Path) -> list[Constrained]:
    """The IFEval file: JSON lines of key, prompt, instruction_id_list, kwargs. Arguments that are null are left out."""
    items = []
    for number, row in enumerate(read_json_lines(path, needs=("key", "prompt", "instruction_id_list", "kwargs")), 1):
        unknown = [name for name in row["instruction_id_list"] if name not in CHECKS]
        if unknown:
            raise UserError(f"{path}: row {number}: there is no instruction type {unknown[0]!r}")
        instructions = tuple(
            (name, {key: value for key, value in arguments.items() if value is not None})
            for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True)
        )
        items.append(Constrained(key=row["key"], prompt=row["prompt"], instructions=instructions))
    return items


def follows(answer: str, kind: str, arguments: Mapping[str, Any], *, loose: bool = False) -> bool:
    """Whether an answer follows one instruction. An empty answer follows none."""
    readings = _readings(answer) if loose else [answer]
    return any(CHECKS[kind](reading, **arguments) for reading in readings if reading.strip())


def _readings(answer: str) -> list[str]:
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]
