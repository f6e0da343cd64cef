"""Our scorers on the outputs that the InstructGPT authors released, beside the figures they printed.

`python tests/evaluation/parity.py FOLDER` prints the tables of docs/evaluation-parity.md. FOLDER holds the CSV files
of github.com/openai/following-instructions-human-feedback. They give 100 items for each of 12 models and each prompt
type. Scores per sample are published for TruthfulQA and RealToxicityPrompts; for the other sets only the averages of
Table 14, over the whole sets, so what can be asked is whether the printed average lies in our interval for 100 items.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preceptor.evaluation import scorers
from preceptor.evaluation.reading import find, read_table
from preceptor.statistics.clustered import bootstrap
from preceptor.statistics.preference import mean_interval

MODELS = tuple(f"{kind}-{size}" for kind in ("gpt", "sft", "ppo-noptx", "ppo-ptx") for size in ("xl", "6b", "175b"))
SHOTS = ("zeroshot", "fewshot")

# Table 14 of the paper, columns in the order of MODELS. F1 and BLEU are in hundredths, the rest are shares.
TABLE_14 = {
    ("squadv2", "zeroshot"): "51.97 58.66 64.30 36.88 46.53 57.67 45.37 47.42 43.68 45.46 47.23 59.85",
    ("squadv2", "fewshot"): "58.86 62.33 69.75 46.62 53.91 65.90 48.11 52.34 51.95 58.33 63.78 69.93",
    ("drop", "zeroshot"): "17.68 19.96 27.53 13.29 13.23 15.79 14.70 12.34 13.08 14.71 10.64 15.23",
    ("drop", "fewshot"): "25.43 30.08 35.27 23.84 30.99 35.85 21.61 27.11 27.78 23.89 29.39 33.34",
    ("fr_to_en", "zeroshot"): "30.65 34.99 38.92 25.56 33.25 36.90 19.85 25.22 24.16 25.77 30.41 34.28",
    ("fr_to_en", "fewshot"): "31.37 35.49 39.93 24.73 31.76 35.07 21.65 29.96 26.58 27.67 33.56 36.76",
    ("tldr", ""): ".182 .197 .196 .198 .235 .225 .218 .231 .227 .214 .231 .220",
    ("toxicity", "basic prompt"): ".228 .229 .231 .198 .211 .211 .213 .214 .228 .228 .227 .234",
    ("toxicity", "respectful prompt"): ".211 .232 .233 .196 .196 .199 .198 .176 .205 .179 .204 .196",
    ("toxicity", "biased prompt"): ".250 .261 .285 .236 .250 .256 .254 .382 .427 .263 .512 .400",
    ("true", "QA"): ".312 .220 .284 .324 .436 .515 .546 .586 .755 .297 .476 .712",
    ("true", "instruction"): ".340 .414 .570 .360 .756 .665 .634 .928 .879 .355 .733 .815",
    ("true", "QA + instruct"): ".335 .348 .438 .517 .659 .852 .807 .760 .944 .322 .494 .610",
    ("true+info", "QA"): ".193 .186 .251 .267 .253 .271 .524 .574 .752 .285 .464 .689",
    ("true+info", "instruction"): ".212 .212 .226 .282 .213 .257 .559 .187 .382 .339 .350 .494",
    ("true+info", "QA + instruct"): ".218 .267 .242 .288 .319 .206 .789 .704 .588 .242 .399 .315",
}
TQA_LABELS = ("QA prompt", "instruction prompt", "QA + instruction")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Twelve models: ours with its interval, the paper's figure, one definition of the score."""

    task: str
    prompt: str
    definition: str
    ours: np.ndarray
    low: np.ndarray
    high: np.ndarray
    paper: np.ndarray

    @property
    def inside(self) -> int:
        """How many of the paper's 12 figures lie in our 95 % interval."""
        return int(((self.low <= self.paper) & (self.paper <= self.high)).sum())

    @property
    def difference(self) -> float:
        """Mean of ours - paper."""
        return float((self.ours - self.paper).mean())

    @property
    def correlation(self) -> float:
        return float(np.corrcoef(self.ours, self.paper)[0, 1])


def printed(task: str, prompt: str) -> np.ndarray:
    return np.array([float(cell) for cell in TABLE_14[task, prompt].split()])


def samples(folder: Path, name: str) -> list[dict[str, str]]:
    return read_table(find(folder, f"{name}_samples.csv"))


def of_means(task: str, prompt: str, definition: str, values: np.ndarray) -> Parity:
    """`values`: (models, items)."""
    intervals = [mean_interval(row) for row in values]
    ours, low, high = (np.array([getattr(i, end) for i in intervals]) for end in ("value", "low", "high"))
    return Parity(
        task=task, prompt=prompt, definition=definition, ours=ours, low=low, high=high, paper=printed(task, prompt)
    )


def grid(rows: list[dict[str, str]], prompt: str, score: Callable[[dict[str, str]], float]) -> np.ndarray:
    """Scores of one prompt type, shape (models, 100)."""
    return np.array(
        [
            [score(row) for row in rows if row["model_type"] == model and row.get("prompt_type", "") == prompt]
            for model in MODELS
        ]
    )


def references(row: dict[str, str]) -> list[str]:
    return row["ref_text"].split("|")


SQUAD = {
    "SQuAD 2.0 script, ours": lambda row: 100 * scorers.squad(row["sample"], references(row))[1],
    "no-answer string scored as text": lambda row: (
        100 * max(scorers.token_f1(row["sample"], reference) for reference in references(row))
    ),
}
DROP = {
    "DROP script, each reference an alternative": lambda row: (
        100 * scorers.drop(row["sample"], [[reference] for reference in references(row)])[1]
    ),
    "DROP script, references as one list of spans": lambda row: 100 * scorers.drop(row["sample"], [references(row)])[1],
}


def squadv2(folder: Path) -> list[Parity]:
    rows = samples(folder, "squadv2")
    return [of_means("squadv2", shot, name, grid(rows, shot, score)) for name, score in SQUAD.items() for shot in SHOTS]


def drop(folder: Path) -> list[Parity]:
    rows = samples(folder, "drop")
    return [of_means("drop", shot, name, grid(rows, shot, score)) for name, score in DROP.items() for shot in SHOTS]


def fr_to_en(folder: Path) -> list[Parity]:
    rows = samples(folder, "fr_to_en")
    return [
        bleu_parity(rows, shot, name, lowercase)
        for name, lowercase in (("sacrebleu, cased", False), ("sacrebleu, lower case", True))
        for shot in SHOTS
    ]


def bleu_parity(rows: list[dict[str, str]], shot: str, definition: str, lowercase: bool) -> Parity:
    """BLEU is no mean, so its interval resamples the 100 sentences' n-gram counts."""
    cells = []
    for model in MODELS:
        mine = [row for row in rows if row["model_type"] == model and row["prompt_type"] == shot]
        said, gold = [row["sample"] for row in mine], [[row["ref_text"]] for row in mine]
        counts = scorers.bleu_counts(said, gold, lowercase=lowercase)
        low, high = bootstrap(counts, scorers.bleu_of_counts)
        cells.append((scorers.bleu(said, gold, lowercase=lowercase), low, high))
    ours, low, high = np.array(cells).T
    return Parity(
        task="fr_to_en", prompt=shot, definition=definition, ours=ours, low=low, high=high,
        paper=printed("fr_to_en", shot),
    )  # fmt: skip


def tldr(folder: Path) -> list[Parity]:
    rows = samples(folder, "tldr")
    result = []
    for kind in ("rougeL", "rouge1"):
        score = scorers.rouge_scorer(kind)
        values = grid(rows, "", lambda row, score=score: score(row["sample"], row["ref_text"].replace("|", " ")))
        result.append(of_means("tldr", "", f"{kind}, stemmed, F", values))
    return result


def toxicity(folder: Path) -> list[Parity]:
    rows = samples(folder, "real_toxicity")
    prompts = [prompt for task, prompt in TABLE_14 if task == "toxicity"]
    return [
        of_means("toxicity", prompt, "mean of the published scores", grid(rows, prompt, lambda r: float(r["toxicity"])))
        for prompt in prompts
    ]


def truthfulness(folder: Path) -> list[Parity]:
    """Every label of the released file against every row of the table: nine pairs for each of two measures."""
    rows = samples(folder, "truthful_qa")
    measures = {
        "true": lambda row: float(float(row["true"]) > 0.5),
        "true+info": lambda row: float(float(row["true"]) > 0.5 and float(row["info"]) > 0.5),
    }
    result = []
    for measure, score in measures.items():
        for label in TQA_LABELS:
            for task, prompt in TABLE_14:
                if task == measure:
                    result.append(of_means(task, prompt, f"label `{label}`", grid(rows, label, score)))
    return result


def all_tables(folder: Path) -> list[Parity]:
    return [row for table in (squadv2, drop, fr_to_en, tldr, toxicity, truthfulness) for row in table(folder)]


def markdown(rows: list[Parity]) -> str:
    """One line per (task, prompt, definition): how close, then the twelve figures as ours / paper."""
    lines = [
        "| set | prompt of Table 14 | definition | paper in our 95 % interval | ours - paper | mean distance | r |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        digits = 2 if row.paper.max() > 1 else 3
        distance = float(np.abs(row.ours - row.paper).mean())
        lines.append(
            f"| {row.task} | {row.prompt or '-'} | {row.definition} | {row.inside} of 12 "
            f"| {row.difference:+.{digits}f} | {distance:.{digits}f} | {row.correlation:.2f} |"
        )
    return "\n".join(lines)


def cells(rows: list[Parity]) -> str:
    """All twelve figures of each line, ours over the paper's."""
    lines = [f"| set, prompt | | {' | '.join(MODELS)} |", "|---" * 14 + "|"]
    for row in rows:
        digits = 1 if row.paper.max() > 1 else 3
        ours = " | ".join(
            f"{v:.{digits}f} [{a:.{digits}f}, {b:.{digits}f}]" for v, a, b in zip(row.ours, row.low, row.high)
        )
        lines.append(f"| {row.task}, {row.prompt or '-'} | ours | {ours} |")
        lines.append(f"| | paper | {' | '.join(f'{v:.{digits}f}' for v in row.paper)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tables = all_tables(Path(sys.argv[1]))
    shown = [row for row in tables if row.task not in ("true", "true+info", "toxicity")]
    print(markdown(tables), cells(shown), sep="\n\n")
