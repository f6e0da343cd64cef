"""The public tasks of the alignment tax: a local file in, items in the paper's prompt format out (its Figures 21-27).

A `query` ends where the answer begins, without a space; few-shot examples are queries with their answers, joined by
`Format.between`. Readers raise UserError for a file that is not what its name says.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, Literal

from preceptor.errors import UserError
from preceptor.evaluation.reading import find, read_json, read_json_lines, read_table, read_text

NOT_IN_BACKGROUND = "Not in background."
DO_NOT_KNOW = "I don't know."


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """`references` are alternatives (for DROP, each may be several spans); `choices` and `gold` are for choosing.

    `answer` is what a few-shot example shows. `group` is the passage: questions of one passage are not independent.
    """

    query: str
    answer: str
    group: str
    references: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    gold: int = -1


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a task is put: `header` opens the prompt, `between` parts the examples, `shots` is the paper's number."""

    name: str
    read: Callable[[Path], list[Item]]
    metric: Literal["squad", "quac", "drop", "bleu", "rouge", "choice", "noun"]
    header: str = ""
    between: str = "\n\n"
    shots: int = 15
    max_new_tokens: int = 50


def _background_header(unanswerable: str) -> str:
    return (
        "Answer each question using information in the preceding background paragraph. "
        f"If there is not enough information provided, answer with “{unanswerable}”\n\n"
    )


def read_squad(path: Path) -> list[Item]:
    """SQuAD 2.0 layout. Before each question stand the earlier ones of its paragraph, each with one of its answers.

    Their order and the choice of answer are random, as in the released prompts, and fixed by the question's id.
    """
    items = []
    for article in _need(read_json(path), "data", path):
        for paragraph in article["paragraphs"]:
            earlier: list[tuple[str, tuple[str, ...]]] = []
            for asked in paragraph["qas"]:
                texts = tuple(answer["text"] for answer in asked["answers"])
                chance = random.Random(asked["id"])
                turns = [
                    f"Q: {question}\n\nA: {chance.choice(answers or (NOT_IN_BACKGROUND,))}"
                    for question, answers in chance.sample(earlier, len(earlier))
                ]
                background = f"Title: {article['title']}\n\nBackground: {paragraph['context']}"
                query = "\n\n".join([background, *turns, f"Q: {asked['question']}\n\nA:"])
                answer = texts[0] if texts else NOT_IN_BACKGROUND
                items.append(Item(query=query, answer=answer, group=paragraph["context"], references=texts))
                earlier.append((asked["question"], texts))
    return items


def read_quac(path: Path) -> list[Item]:
    """QuAC layout (SQuAD-like, CANNOTANSWER for no answer). Earlier turns stand before each question."""
    items = []
    for article in _need(read_json(path), "data", path):
        for paragraph in article["paragraphs"]:
            context = paragraph["context"].removesuffix("CANNOTANSWER").strip()
            query = f"Title: {article['title']}\n\nBackground: {context}"
            for asked in paragraph["qas"]:
                texts = tuple(_no_cannot(answer["text"]) for answer in asked["answers"])
                shown = _no_cannot(asked.get("orig_answer", asked["answers"][0])["text"])
                query += f"\n\nQ: {asked['question']}\n\nA:"
                items.append(Item(query=query, answer=shown, group=context, references=texts))
                query += f" {shown}"
    return items


def _no_cannot(text: str) -> str:
    return DO_NOT_KNOW if text == "CANNOTANSWER" else text


def read_drop(path: Path) -> list[Item]:
    """DROP's own JSON (passage id -> passage, qa_pairs), or the CSV of released samples (context, ref_text)."""
    if ".csv" in path.suffixes:
        return _released(path)
    items = []
    for passage in read_json(path).values():
        for asked in passage["qa_pairs"]:
            answers = [asked["answer"], *asked.get("validated_answers", ())]
            spans = tuple(found for found in map(_drop_spans, answers) if found)
            if not spans:
                raise UserError(f"{path}: question {asked.get('query_id')!r} has no answer")
            query = f"Passage: {passage['passage']}\nQuestion: {asked['question']}\nAnswer:"
            items.append(Item(query=query, answer=", ".join(spans[0]), group=passage["passage"], references=spans))
    return items


def _drop_spans(answer: Mapping[str, Any]) -> tuple[str, ...]:
    date = answer.get("date") or {}
    if str(answer.get("number", "")).strip():
        return (str(answer["number"]),)
    if answer.get("spans"):
        return tuple(answer["spans"])
    written = " ".join(date[part] for part in ("day", "month", "year") if date.get(part))
    return (written,) if written else ()


def _released(path: Path) -> list[Item]:
    """Each query of a released sample file once; `|` parts the references."""
    rows = {row["context"]: row["ref_text"] for row in read_table(path, needs=("context", "ref_text"))}
    return [
        Item(query=context, answer=references.split("|")[0], group=context, references=tuple(references.split("|")))
        for context, references in rows.items()
    ]


def read_translation(path: Path) -> list[Item]:
    """A WMT test set (NAME-fren-src.fr.sgm with NAME-fren-ref.en.sgm beside it), JSON lines of fr and en, or the CSV
    of released samples."""
    if ".csv" in path.suffixes:
        return _released(path)
    if ".sgm" in path.suffixes:
        pairs = list(zip(_segments(path), _segments(reference_of(path)), strict=True))
    else:
        pairs = [(row["fr"], row["en"]) for row in read_json_lines(path, needs=("fr", "en"))]
    return [
        Item(query=f"French: {french}\nEnglish:", answer=english, group=str(number), references=(english,))
        for number, (french, english) in enumerate(pairs)
    ]


def reference_of(path: Path) -> Path:
    """The English side of a WMT test set."""
    return find(path.parent, path.name.replace("-src.fr", "-ref.en").removesuffix(".gz"))


def _segments(path: Path) -> list[str]:
    """The sentences of a WMT SGM file. Its ampersands are not always escaped, so no XML reader takes it."""
    found = [unescape(text).strip() for text in re.findall(r"<seg\b[^>]*>(.*?)</seg>", read_text(path), re.DOTALL)]
    if not found:
        raise UserError(f"{path}: there is no <seg>")
    return found


def read_summaries(path: Path) -> list[Item]:
    """A text and its summary: JSON lines of article and highlights (CNN/DM), of post and summary with title and
    subreddit (TL;DR of Stiennon et al.), of content and summary (Webis), of text and summary; CNN/DM's CSV; or the
    CSV of released samples, where the references of an item are one text."""
    if ".csv" in path.suffixes and "samples" in path.name:
        joined = ((item, " ".join(item.references)) for item in _released(path))
        return [Item(query=item.query, answer=text, group=item.group, references=(text,)) for item, text in joined]
    csv = ".csv" in path.suffixes
    rows = read_table(path, needs=("article", "highlights")) if csv else read_json_lines(path, needs=())
    items = []
    for number, row in enumerate(rows):
        shape = next((pair for pair in _SUMMARIES if pair[0] in row and pair[1] in row), None)
        if shape is None:
            wanted = " or ".join(f"{text} with {end}" for text, end in _SUMMARIES)
            raise UserError(f"{path}: row {number + 1}: there is no {wanted}")
        text, summary = (row[key].strip() for key in shape)
        if shape[0] == "post":
            text = f"SUBREDDIT: r/{row['subreddit']}\n\nTITLE: {row['title']}\n\nPOST: {text}"
        items.append(Item(query=f"{text}\n\nTL;DR:", answer=summary, group=str(number), references=(summary,)))
    return items


_SUMMARIES = (("article", "highlights"), ("post", "summary"), ("content", "summary"), ("text", "summary"))


def read_hellaswag(path: Path) -> list[Item]:
    """JSON lines of activity_label, ctx, endings, label."""
    return [
        _choice(f"{row['activity_label']}: {row['ctx']}", row["endings"], int(row["label"]), str(number))
        for number, row in enumerate(read_json_lines(path, needs=("activity_label", "ctx", "endings", "label")))
    ]


def read_arc(path: Path) -> list[Item]:
    """AI2's JSON lines (question.stem, question.choices of label and text, answerKey), or lines of query ("Question:
    ..."), choices, gold."""
    items = []
    for number, row in enumerate(read_json_lines(path, needs=())):
        if "answerKey" in row:
            choices = row["question"]["choices"]
            labels = [choice["label"] for choice in choices]
            if row["answerKey"] not in labels:
                raise UserError(f"{path}: line {number + 1}: answerKey is {row['answerKey']!r}, no label of a choice")
            query, gold = f"Question: {row['question']['stem']}", labels.index(row["answerKey"])
            texts = [choice["text"] for choice in choices]
        elif all(key in row for key in ("query", "choices", "gold")):
            query, texts, gold = row["query"], row["choices"], row["gold"]
        else:
            raise UserError(f"{path}: line {number + 1}: there is neither 'answerKey' nor 'query', 'choices', 'gold'")
        items.append(_choice(f"{query}\nAnswer:", texts, gold, str(number)))
    return items


def read_rte(path: Path) -> list[Item]:
    """SuperGLUE JSON lines of premise, hypothesis, label (entailment or not)."""
    form = "Passage: {}\n\nQuestion: From this passage can one reasonably conclude that {}\n\nAnswer:"
    return [
        _choice(form.format(row["premise"], row["hypothesis"]), ("Yes", "No"), _told(row["label"]), str(number))
        for number, row in enumerate(read_json_lines(path, needs=("premise", "hypothesis", "label")))
    ]


def _told(label: str) -> int:
    return 0 if label == "entailment" else 1


def read_sst(path: Path) -> list[Item]:
    """GLUE TSV of sentence and label (1 is positive)."""
    rows = read_table(path, needs=("sentence", "label"))
    return [
        _choice(f"Text: {row['sentence'].strip()}\n\nLabel:", ("positive", "negative"), 1 - int(row["label"]), str(n))
        for n, row in enumerate(rows)
    ]


def read_wsc(path: Path) -> list[Item]:
    """SuperGLUE JSON lines of text, target and label. The pronoun is marked by stars; the answer is a noun."""
    items = []
    for row in read_json_lines(path, needs=("text", "target", "label")):
        words, target = row["text"].split(" "), row["target"]
        place = target["span2_index"]
        words[place] = words[place].replace(target["span2_text"], f"*{target['span2_text']}*")
        query = (
            f"Passage: {' '.join(words)}\n\nQuestion: In the passage above, what does the pronoun "
            f"“*{target['span2_text']}*” refer to?\n\nAnswer:"
        )
        noun, right = target["span1_text"], bool(row["label"])
        # An example can show the noun only where the noun is right; `answer` is empty otherwise.
        items.append(
            Item(query=query, answer=noun if right else "", group=row["text"], references=(noun,), gold=int(right))
        )
    return items


def _choice(query: str, choices: Any, gold: int, group: str) -> Item:
    return Item(query=query, answer=choices[gold], group=group, choices=tuple(choices), gold=gold)


def _need(data: Any, key: str, path: Path) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise UserError(f"{path}: there is no {key!r}")
    return data[key]


FORMATS: tuple[Format, ...] = (
    Format(
        name="squadv2", read=read_squad, metric="squad", header=_background_header(NOT_IN_BACKGROUND), shots=4,
        between="\n\n\n",
    ),
    Format(
        name="quac", read=read_quac, metric="quac", header=_background_header(DO_NOT_KNOW), shots=2,
        between="\n\n\n",
    ),
    Format(name="drop", read=read_drop, metric="drop", shots=4),
    Format(
        name="fr_to_en", read=read_translation, metric="bleu",
        header="Translate the following sentences from French into English.\n\n", max_new_tokens=100,
    ),
    Format(name="cnn_dm", read=read_summaries, metric="rouge", max_new_tokens=100, between="\n\n\n"),
    Format(name="tldr", read=read_summaries, metric="rouge", max_new_tokens=60, between="\n\n\n"),
    Format(
        name="hellaswag", read=read_hellaswag, metric="choice",
        header="Complete each independent paragraph using common-sense reasoning.\n\n",
    ),
    Format(name="arc_easy", read=read_arc, metric="choice"),
    Format(name="arc_challenge", read=read_arc, metric="choice"),
    Format(name="rte", read=read_rte, metric="choice"),
    Format(
        name="sst", read=read_sst, metric="choice",
        header="For each snippet of text, label the sentiment of the text as positive or negative.\n\n",
    ),
    Format(
        name="wsc", read=read_wsc, metric="noun",
        header="Final Exam with Answer Key\n\nInstructions: Please carefully read the following passages. For each "
        "passage, you must identify which noun the pronoun marked in bold refers to.\n\n",
    ),
)  # fmt: skip
