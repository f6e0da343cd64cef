"""The parts of the report in their order: what each holds, or what is missing and which command fills it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from preceptor.report import figures, judge_figures, people_figures, suite_figures
from preceptor.report.data import Ancestor, ReportData, Sample, WinRate
from preceptor.report.figures import Figure
from preceptor.report.words import held_out, model_name, number, share
from preceptor.statistics.overoptimisation import fit_rl_law
from preceptor.statistics.preference import smallest_detectable

_TAX = "Training for preference can make a model forget. Plain text mixed into PPO (PPO-ptx) is meant to stop it."


@dataclass(frozen=True, kw_only=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """`missing` are the lines for what is not there. `body` names a block of the template beside the figures."""

    id: str
    title: str
    short: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    body: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A model in the tree of lineage; `relation` ties it to the one above. `children` of a model that stands in
    the tree already are not repeated."""

    name: str
    relation: str
    hash: str
    note: str
    children: list["Node"]
    model: bool = True


def sections(data: ReportData) -> list[Section]:
    return [
        _preference(data),
        _overoptimisation(data),
        _cost(data),
        _behaviour(data),
        *_suites(data),
        _samples(data),
        _reward_model(data),
        _agreement(data),
        _training(data),
        _lineage(data),
        Section(id="limits", title="What shaped the result, and what limits it", short="Limits", body="limits"),
        Section(id="not", title="What was not measured", short="Not measured", body="not-measured"),
    ]


def _present(*drawn: Figure | None) -> list[Figure]:
    return [figure for figure in drawn if figure is not None]


def _preference(data: ReportData) -> Section:
    figure = figures.win_rates(data)
    sides = []
    if data.win_rates:
        sides.append("The intervals hold for this pool of prompts and these judges. Ties count half.")
    if data.smallest_detectable is not None:
        points = number(100 * data.smallest_detectable, 1)
        sides.append(f"A rate less than {points} points from 50 % would often be missed with this many answers.")
    elif data.win_rates:
        first = next((row for row in data.win_rates if not row.cohort), data.win_rates[0])
        sides.append(
            f"A rate less than {_told(first)} from 50 % would often be missed with as many answers as the first "
            "comparison of the table has; the others’ are in its column “Least it can tell”."
        )
    missing = []
    if not data.win_rates:
        missing.append("No win rates: `preceptor evaluate` compares a model with a baseline.")
    elif figure is None:
        missing.append(
            "No win rates against the baseline: `preceptor evaluate` compares the models with "
            f"{data.baseline or 'a baseline'}."
        )
    tables = []
    if data.win_rates:
        controlled = any(row.length_controlled for row in data.win_rates)
        columns = ["Compared", "Judge, decoding", "Preferred, 95 % interval", "n", "Least it can tell", "In words"]
        rows = []
        for row in data.win_rates:
            cells = [
                f"{model_name(data.model(row.model))} over {model_name(data.model(row.baseline))}",
                f"{row.judge}, {row.decoding}" + (f", {row.cohort}" if row.cohort else ""),
                share(row.win),
                f"{row.win.n:,}",
                _told(row),
                "better" if row.win.above(0.5) else "worse" if row.win.below(0.5) else "not told apart",
            ]
            if controlled:
                cells.append(share(row.length_controlled) if row.length_controlled else "not computed")
            rows.append(cells)
        if controlled:
            columns.append("At equal length")
        tables.append(Table(caption="Every comparison made", columns=columns, rows=rows))
        sides += _fairness(data)
    return Section(
        id="win",
        title="Preference",
        short="Preference",
        figures=[
            *_present(figure, figures.comparisons(data)),
            *people_figures.strengths(data),
            *people_figures.scores(data),
        ],
        tables=tables,
        sides=sides,
        missing=missing,
    )


def _told(row: WinRate) -> str:
    """The least distance from 50 % that a comparison of this size can tell from chance (80 % power)."""
    return f"{number(100 * smallest_detectable(row.win.n, row.win.clusters), 1)} points"


def _fairness(data: ReportData) -> list[str]:
    """Whether the place on the screen mattered, whose the prompts were, and which pairs have no verdict."""
    said = []
    for row in data.win_rates:
        if row.position is not None and not row.cohort:
            verdict = (
                "the place mattered" if row.position.above(0.5) or row.position.below(0.5) else "no effect is shown"
            )
            said.append(f"Shown first wins {share(row.position)} with {row.judge}: {verdict}.")
        if row.users is not None and not row.cohort:
            said.append(f"Prompts judged by {row.judge}: {held_out(row.users, row.training_users)}")
        if row.missing:
            why = f" ({row.note})" if row.note else ""
            said.append(f"{row.missing:,} pairs have no verdict of {row.judge}{why}; they count for neither side.")
    return list(dict.fromkeys(said))


def _overoptimisation(data: ReportData) -> Section:
    sides = []
    run = data.overoptimisation
    missing = []
    if run is None or not run.points:
        missing.append(
            "No curve of proxy against gold reward: `preceptor evaluate` draws it for a run of `preceptor ppo` that "
            "kept its checkpoints."
        )
    else:
        if run.note:
            sides.append(run.note)
        if run.stand_in:
            sides.append(figures.parting(data))
        sides.append(_law(data))
    if not data.best_of_n:
        missing.append("No best-of-n: `preceptor evaluate` computes it from several answers to each prompt.")
    return Section(
        id="over",
        title="Over-optimisation",
        short="Over-optimisation",
        figures=_present(figures.overoptimisation(data), figures.best_of_n(data)),
        sides=sides,
        missing=missing,
    )


def _law(data: ReportData) -> str:
    """Gao's law fitted to the gold curve, or why it is not."""
    run = data.overoptimisation
    assert run is not None
    gold = sorted((point.kl, point.gold.value) for point in run.points if point.gold is not None)
    if not gold:
        return "Gold was not measured along this run."
    distance = [max(0.0, kl) ** 0.5 for kl, _ in gold]
    try:
        law = fit_rl_law(distance, [value - gold[0][1] for _, value in gold])
    except ValueError:
        return "Too few points at √KL of 1 or more to fit the law of Gao et al. (2022)."
    text = (
        f"Gao’s law fitted to gold, d = √KL of 1 or more: R(d) = d ({number(law.alpha)} − {number(law.beta)} ln d), "
        f"off by {number(law.residual)} on the root mean square of {law.n} points."
    )
    if law.peak is None:
        return text + " It does not turn over."
    if law.peak > distance[-1]:
        return text + f" Its peak, at {number(law.peak, 1)}, lies beyond what was measured."
    if law.peak < 1:
        return text + " Its peak lies below 1, where the law is not to be trusted."
    return text + f" Its peak lies at {number(law.peak, 1)}."


def _cost(data: ReportData) -> Section:
    missing = []
    if not data.losses:
        missing.append("No pretraining loss: `preceptor evaluate` measures it on held-out text of the corpus.")
    if not data.tax:
        missing.append("No public tasks: `preceptor evaluate --suite paper` runs them from local files.")
    return Section(
        id="tax",
        title="What it cost: the alignment tax",
        short="Alignment tax",
        figures=_present(figures.losses(data), figures.tax(data)),
        missing=missing,
        sides=[_TAX] if data.losses or data.tax else [],
    )


def _behaviour(data: ReportData) -> Section:
    return Section(
        id="behaviours",
        title="What changed in the answers",
        short="Behaviours",
        figures=_present(figures.components(data)),
        missing=[] if data.components else ["No behaviours: they come from ratings, `preceptor web`, queue “rate”."],
        tables=_flag_slices(data),
    )


def _flag_slices(data: ReportData) -> list[Table]:
    rows = [row for row in data.components if row.cohort]
    if not rows:
        return []
    cells = [
        [row.cohort, row.behaviour, model_name(data.model(row.model)), share(row.rate), f"{row.rate.n:,}"]
        for row in sorted(rows, key=lambda row: (row.cohort, row.behaviour))
    ]
    columns = ["Slice", "Behaviour", "Model", "Share, 95 % interval", "n"]
    return [Table(caption="Behaviours by slice", columns=columns, rows=cells)]


def _suites(data: ReportData) -> list[Section]:
    """A section for each group of public figures that was measured; one line for all of them when none was."""
    found = [
        Section(id=group, title=title, short=short, figures=drawn, sides=[side])
        for group, (title, short, side) in suite_figures.GROUPS.items()
        if (drawn := suite_figures.suites(data, group))
    ]
    if found:
        return found
    missing = [
        "No truthfulness, toxicity, bias, instructions or refusals: `preceptor evaluate --suite paper --data FOLDER`."
    ]
    return [Section(id="suites", title="Truth, harm, instructions", short="Public suites", missing=missing)]


def _samples(data: ReportData) -> Section:
    return Section(
        id="samples",
        title="Answers, worst first",
        short="Answers, worst first",
        body="samples",
        missing=[] if data.samples else ["No answers to show: `preceptor evaluate` stores the answers it compares."],
    )


def ordered_samples(data: ReportData) -> list[Sample]:
    """The worst first, and among them the lowest score of the main model first, what has no score behind; the rest as
    they came."""

    def rank(sample: Sample) -> tuple[bool, float]:
        score = next((a.score for a in sample.answers if a.model == data.main and a.score is not None), math.inf)
        return sample.group != "worst", score if sample.group == "worst" else 0.0

    return sorted(data.samples, key=rank)


def _reward_model(data: ReportData) -> Section:
    missing = []
    if not data.reward_accuracy:
        missing.append("No accuracy of the reward model: `preceptor reward` measures it on rankings it did not read.")
    if not data.reward_checks:
        missing.append(
            "No check by flaw: it needs ideal answers and the same with one flaw (`preceptor demo` has them)."
        )
    return Section(
        id="rm",
        title="Can the reward model be trusted?",
        short="Reward model",
        figures=_present(judge_figures.reward_accuracy(data), judge_figures.reward_checks(data)),
        missing=missing,
    )


def _agreement(data: ReportData) -> Section:
    figure = judge_figures.agreement(data)
    return Section(
        id="agree",
        title="Do labelers agree?",
        short="Agreement",
        figures=_present(figure),
        missing=[] if figure else ["No agreement: it needs prompts ranked by two labelers or more."],
    )


def _training(data: ReportData) -> Section:
    return Section(
        id="training",
        title="How training went",
        short="Training",
        figures=figures.training(data),
        missing=[] if data.training else ["No curves: each stage writes them to runs/ as it trains."],
    )


def _lineage(data: ReportData) -> Section:
    missing = [] if data.lineage else ["No lineage: models made by preceptor carry a card that names their parents."]
    tables = []
    if data.lineage:
        rows = []
        for one in data.lineage:
            seed = "not said" if one.seed is None else str(one.seed)
            size = f"{one.parameters:,}" if one.parameters else "not said"
            rows.append([one.name, one.kind, size, seed, one.sha256 or "not said"])
            rows += [[name, f"release read by {one.name}", "", "", sha] for name, sha in one.releases.items()]
        tables.append(
            Table(caption="Hashes in full", columns=["Name", "Kind", "Parameters", "Seed", "SHA-256"], rows=rows)
        )
    return Section(id="lineage", title="Lineage", short="Lineage", body="lineage", missing=missing, tables=tables)


def short_hash(sha: str) -> str:
    """ "9c41…e2"."""
    return f"{sha[:4]}…{sha[-2:]}" if len(sha) > 8 else sha


def lineage_tree(data: ReportData) -> list[Node]:
    """A tree for each model that is nobody's parent, the main model's first."""
    known = {one.name: one for one in data.lineage}
    parents = {parent for one in data.lineage for parent in one.parents.values()}
    roots = [one for one in data.lineage if one.name not in parents] or list(data.lineage)
    if data.main in known:
        roots = [known[data.main], *(one for one in roots if one.name != data.main)]
    told: set[str] = set()
    return [_node(root, "", known, told) for root in roots if root.name not in told]


def _node(one: Ancestor, relation: str, known: dict[str, Ancestor], told: set[str]) -> Node:
    if one.name in told:
        return Node(name=one.name, relation=relation, hash=short_hash(one.sha256), note="as above", children=[])
    told.add(one.name)
    children = [
        _node(known.get(name, Ancestor(name=name, kind="", note="not in this workspace")), role, known, told)
        for role, name in one.parents.items()
    ]
    children += [
        Node(name=name, relation="read", hash=short_hash(sha), note="release", children=[], model=False)
        for name, sha in one.releases.items()
    ]
    size = f"{one.parameters:,} parameters" if one.parameters else ""
    seed = f"seed {one.seed}" if one.seed is not None else ""
    note = ", ".join(part for part in (one.kind, size, seed, one.note) if part)
    return Node(name=one.name, relation=relation, hash=short_hash(one.sha256), note=note, children=children)
