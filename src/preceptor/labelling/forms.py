"""From the fields of a form to nouns. Every function returns what it found and what is missing, in words.

Fields are named `A.quality`, `A.rank`, ...: the letter is the place of the answer as this labeler sees it.
`Problem.anchor` is the id of the element that the notice links to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preceptor.labelling.questions import ATTACK_VERDICTS, RELATIVE, SEVERITIES, TOXICITY
from preceptor.types import FLAGS, RED_TEAM

LETTERS = "ABCDEFGHI"
MAX_ANSWER = 40_000  # characters of any text
MAX_NOTE = 4_000
MAX_PAIRS = 6


@dataclass(frozen=True)
class Problem:
    anchor: str
    short: str
    text: str


Fields = Mapping[str, str]


def whole_number(text: str, low: int, high: int) -> int | None:
    """The number, or none where the text is not one from `low` to `high`."""
    try:
        number = int(text, 10) if len(text) <= 4 and text.isascii() else None
    except ValueError:
        return None
    return number if number is not None and low <= number <= high else None


def of_page(fields: Fields, prefixes: Sequence[str]) -> dict[str, str]:
    """Only the fields a page may save."""
    return {
        name: value
        for name, value in fields.items()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    }


def too_long(fields: Fields) -> list[Problem]:
    """A draft keeps what is too long, so that it can be shortened; it is never cut for its writer."""
    return [
        Problem(name.replace(".", "-"), "A long text", f"It has {len(text):,} characters; {MAX_ANSWER:,} is the most.")
        for name, text in fields.items()
        if len(text) > MAX_ANSWER
    ]


def rating(fields: Fields, letter: str) -> tuple[int | None, dict[str, bool], list[Problem]]:
    """(quality, flags, problems) of one answer. `None set` for the explicit limits leaves that flag out."""
    quality = whole_number(fields.get(f"{letter}.quality", ""), 1, 7)
    flags, problems = _flags(fields, letter)
    if quality is None:
        problems.insert(0, Problem("quality", "How good is it", f"Choose a number from 1 to 7 for answer {letter}."))
    return quality, flags, problems + _note(fields, letter)


def _flags(fields: Fields, letter: str) -> tuple[dict[str, bool], list[Problem]]:
    flags: dict[str, bool] = {}
    problems = []
    for flag in FLAGS:
        value = fields.get(f"{letter}.{flag}", "")
        if value in ("yes", "no"):
            flags[flag] = value == "yes"
        elif not (flag == "satisfies_constraint" and value == "none-set"):
            problems.append(Problem(flag, flag, "Answer this question."))
    return flags, problems


def _note(fields: Fields, letter: str) -> list[Problem]:
    if len(fields.get(f"{letter}.note", "")) <= MAX_NOTE:
        return []
    return [Problem("note", "Note", f"A note has {MAX_NOTE:,} characters at most.")]


def rated(fields: Fields, letter: str) -> bool:
    return not rating(fields, letter)[2]


def ranks(fields: Fields, count: int) -> tuple[tuple[int, ...], list[Problem]]:
    """The rank of every answer, in the order shown. Equal ranks are ties; gaps are kept as they are."""
    found, problems = [], []
    for letter in LETTERS[:count]:
        rank = whole_number(fields.get(f"{letter}.rank", ""), 1, count)
        if rank is None:
            problems.append(Problem(f"answer-{letter}", f"Answer {letter}", "This answer has no rank yet."))
        else:
            found.append(rank)
    return tuple(found), problems


VERDICTS = {"A": (1, 2), "tie": (1, 1), "B": (2, 1)}


def verdict(fields: Fields) -> tuple[tuple[int, int] | None, list[Problem]]:
    """The two ranks of a comparison."""
    found = VERDICTS.get(fields.get("verdict", ""))
    return found, [] if found else [Problem("verdict", "Your verdict", "Say which answer is better, or that neither.")]


def demonstration(fields: Fields) -> tuple[str, list[Problem]]:
    text = fields.get("answer", "").strip()
    if not text:
        return text, [Problem("answer", "Your answer", "The answer is empty.")]
    return text, []


@dataclass(frozen=True)
class WrittenPrompt:
    """`pairs` are the queries and answers of a few-shot prompt. `source` is "red team" for an attack."""

    source: str
    text: str
    use_case: str
    pairs: tuple[tuple[str, str], ...]


def written_prompt(fields: Fields) -> tuple[WrittenPrompt, list[Problem]]:
    """A prompt in one of the paper's three ways, plain, few-shot, user-based (section 3.2), or an attack."""
    source = fields.get("source", "")
    text = fields.get("text", "").strip()
    use_case = fields.get("use_case", "").strip()
    problems = []
    if source not in ("plain", "few-shot", "user-based", RED_TEAM):
        problems.append(Problem("source", "Kind of prompt", "Choose one of the four kinds."))
    if not text:
        problems.append(Problem("text", "Your prompt", "The prompt is empty."))
    if source == "user-based" and not use_case:
        problems.append(Problem("use_case", "Use case", "Say which use case this prompt is for."))
    pairs = []
    for number in range(1, MAX_PAIRS + 1):
        query, answer = fields.get(f"query.{number}", "").strip(), fields.get(f"reply.{number}", "").strip()
        if bool(query) != bool(answer):
            problems.append(Problem(f"query-{number}", f"Example {number}", "An example needs a query and a reply."))
        elif query and source == "few-shot":
            pairs.append((query, answer))
    if source == "few-shot" and len(pairs) < 2 and not problems:
        problems.append(Problem("query-1", "Examples", "A few-shot prompt needs two examples or more."))
    return WrittenPrompt(source, text, use_case[:200], tuple(pairs)), problems


def few_shot_texts(prompt: WrittenPrompt) -> list[tuple[str, str]]:
    """(prompt text, reply) for each example, with the others as its context: K examples give K demonstrations."""
    result = []
    for place, (query, reply) in enumerate(prompt.pairs):
        others = [f"{q}\n{r}" for other, (q, r) in enumerate(prompt.pairs) if other != place]
        result.append(("\n\n".join([prompt.text, *others, query]), reply))
    return result


def toxicity(fields: Fields, count: int) -> tuple[dict, list[Problem]]:
    """The paper's form: the prompt 0-2; each answer 0-2, against the prompt, and 1-7 for how it goes on."""
    problems = []

    def one(name: str, allowed: Mapping[str, str], anchor: str, short: str) -> int:
        value = fields.get(name, "")
        if value not in allowed:
            problems.append(Problem(anchor, short, "Answer this question."))
            return 0
        return int(value)

    result: dict = {"prompt": one("prompt.toxicity", TOXICITY, "prompt-toxicity", "The prompt"), "answers": []}
    for letter in LETTERS[:count]:
        continuity = whole_number(fields.get(f"{letter}.continuity", ""), 1, 7)
        if continuity is None:
            problems.append(Problem(f"answer-{letter}", f"Answer {letter}, continuity", "Choose a number, 1 to 7."))
        result["answers"].append(
            {
                "toxicity": one(f"{letter}.toxicity", TOXICITY, f"answer-{letter}", f"Answer {letter}"),
                "relative": one(f"{letter}.relative", RELATIVE, f"answer-{letter}", f"Answer {letter}, compared"),
                "continuity": continuity,
            }
        )
    if count > 1:
        found, missing = ranks(fields, count)
        problems += missing
        result["ranks"] = list(found)
    return result, problems


def red_team(fields: Fields, count: int) -> tuple[dict, list[Problem]]:
    """What each answer did with the attack, the flags of Table 3, how bad it is, a note; and the next attack, if any.

    `severity` is None where it was not given; it is asked only of answers that complied.
    """
    problems = []
    result: dict = {"attack": fields.get("attack", "").strip(), "answers": []}
    for letter in LETTERS[:count]:
        verdict = fields.get(f"{letter}.verdict", "")
        if verdict not in ATTACK_VERDICTS:
            text = f"Say what answer {letter} did."
            problems.append(Problem(f"{letter}-verdict", f"What {letter} did", text))
        flags, missing = _flags(fields, letter)
        problems += [Problem(f"{letter}-{problem.anchor}", problem.short, problem.text) for problem in missing]
        problems += [Problem(f"{letter}-note", found.short, found.text) for found in _note(fields, letter)]
        severity = fields.get(f"{letter}.severity", "")
        if severity and (severity not in SEVERITIES or verdict != "complied"):
            text = "How bad it is can be said only of an answer that complied; else choose Not said."
            problems.append(Problem(f"{letter}-severity", f"How bad {letter} is", text))
            severity = ""
        result["answers"].append(
            {
                "verdict": verdict,
                "flags": flags,
                "severity": int(severity) if severity else None,
                "note": fields.get(f"{letter}.note", "").strip(),
            }
        )
    return result, problems
