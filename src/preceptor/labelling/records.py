"""From a submitted form to the rows that training and evaluation read: store rows, and verdicts on attacks."""

from collections.abc import Callable, Iterator, Mapping

from preceptor.intake.splits import split_of
from preceptor.labelling import forms
from preceptor.labelling.forms import LETTERS
from preceptor.store.labelling import Assignment, Rows
from preceptor.store.oversight import Oversight
from preceptor.types import RED_TEAM, Demonstration, Prompt, Ranking, Rating, content_id


def rows_of(found: Assignment, labeler: str, fields: Mapping[str, str]) -> Callable[[int, float], Rows]:
    """The function that makes the rows once version and time on task are known.

    Ids follow from the item and the version, so a second version is a row of its own. Trial work of a screening round
    makes no rows: it is for choosing labelers and never trains a model. Answers are listed in the order shown.
    """
    kind = found.queue.kind
    if found.queue.screening_id:
        return lambda version, seconds: Rows()
    make = {
        "rank": _ranking,
        "compare": _comparison,
        "demonstration": _demonstration,
        "prompt": _prompt,
        "toxicity": lambda *_: Rows(),
        "red-team": _attack,
    }[kind]
    return lambda version, seconds: make(found, labeler, fields, version, seconds)


def _ranking(found: Assignment, labeler: str, fields: Mapping[str, str], version: int, seconds: float) -> Rows:
    ratings = []
    for letter, completion in zip(LETTERS, found.completions):
        quality, flags, _ = forms.rating(fields, letter)
        ratings.append(
            Rating(
                id=content_id("q", found.id, version, completion.id),
                completion_id=completion.id,
                labeler_id=labeler,
                quality=quality,
                flags=flags,
                notes=fields.get(f"{letter}.note", "").strip(),
                rubric=found.queue.rubric,
            )
        )
    ranks, _ = forms.ranks(fields, len(found.completions))
    return Rows(ratings=ratings, rankings=[_row(found, labeler, ranks, version, seconds)])


def _comparison(found: Assignment, labeler: str, fields: Mapping[str, str], version: int, seconds: float) -> Rows:
    return Rows(rankings=[_row(found, labeler, forms.verdict(fields)[0], version, seconds)])


def _row(found: Assignment, labeler: str, ranks: tuple[int, ...], version: int, seconds: float) -> Ranking:
    return Ranking(
        id=content_id("r", found.id, version),
        prompt_id=found.prompt.id,
        labeler_id=labeler,
        completion_ids=tuple(completion.id for completion in found.completions),
        ranks=ranks,
        rubric=found.queue.rubric,
        seconds=round(seconds, 1),
    )


def _demonstration(found: Assignment, labeler: str, fields: Mapping[str, str], version: int, seconds: float) -> Rows:
    text, _ = forms.demonstration(fields)
    return Rows(demonstrations=[_written(found, labeler, found.prompt.id, text, 0, version, seconds)])


def _written(found, labeler, prompt_id: str, text: str, number: int, version: int, seconds: float) -> Demonstration:
    return Demonstration(
        id=content_id("d", found.id, version, number),
        prompt_id=prompt_id,
        labeler_id=labeler,
        text=text,
        rubric=found.queue.rubric,
        seconds=round(seconds, 1),
    )


def attack(text: str, labeler: str) -> Prompt:
    """An attack as a prompt. It measures models and never trains one, so it stands in the test split."""
    return Prompt.of(
        text, user_id=labeler, source="plain", split="test", meta={"labeler": labeler, "wanted_for": RED_TEAM}
    )


def _attack(found: Assignment, labeler: str, fields: Mapping[str, str], version: int, seconds: float) -> Rows:
    """The verdicts stay in the submission, from which they are exported; the next attack becomes a prompt."""
    said, _ = forms.red_team(fields, len(found.completions))
    return Rows(prompts=[attack(said["attack"], labeler)] if said["attack"] else [])


def _prompt(found: Assignment, labeler: str, fields: Mapping[str, str], version: int, seconds: float) -> Rows:
    written, _ = forms.written_prompt(fields)
    if written.source == RED_TEAM:
        return Rows(prompts=[attack(written.text, labeler)])
    meta = {"labeler": labeler}
    if written.use_case:
        meta["wanted_for"] = written.use_case

    def prompt(text: str) -> Prompt:
        side = split_of(labeler)
        return Prompt.of(text, user_id=labeler, source=written.source, split=side, meta=meta)

    if written.source != "few-shot":
        return Rows(prompts=[prompt(written.text)])
    made = [(prompt(text), reply) for text, reply in forms.few_shot_texts(written)]
    distinct = {item.id: (item, reply) for item, reply in made}
    return Rows(
        prompts=[item for item, _ in distinct.values()],
        demonstrations=[
            _written(found, labeler, item.id, reply, number, version, seconds / len(distinct))
            for number, (item, reply) in enumerate(distinct.values())
        ],
    )


def verdicts(oversight: Oversight) -> Iterator[dict]:
    """People's verdicts on answers to attacks, one answer a row: request, answer, verdict, and who said it of what."""
    opinions = oversight.opinions(kinds=("red-team",))
    shown = {one.id: one for one in oversight.store.completions(ids={key for one in opinions for key in one.shown})}
    asked = {one.id: one for one in oversight.store.prompts(ids={one.prompt_id for one in shown.values()})}
    for opinion in opinions:
        said, _ = forms.red_team(opinion.fields, len(opinion.shown))
        about = {"task_id": opinion.task_id, "labeler_id": opinion.labeler_id, "cohort": opinion.cohort}
        for key, judged in zip(opinion.shown, said["answers"]):
            texts = {"request": asked[shown[key].prompt_id].text, "answer": shown[key].text}
            source = {"completion_id": key, "model_id": shown[key].model_id}
            yield texts | judged | about | source | {"seconds": opinion.seconds, "at": opinion.at}
