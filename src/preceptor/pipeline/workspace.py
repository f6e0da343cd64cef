"""What one does with a workspace as a whole: make it, look at it, report on it, take a model out."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preceptor import __version__
from preceptor.errors import UserError
from preceptor.pipeline import measured, people
from preceptor.pipeline.lineage import lineage, training_curves
from preceptor.pipeline.stored import read_stored
from preceptor.report.build import write_report
from preceptor.report.data import Agreement, Answer, Loss, Model, Process, ReportData, Sample
from preceptor.statistics.agreement import pairwise_agreement
from preceptor.statistics.interval import Interval
from preceptor.store import Workspace
from preceptor.store.waiting import Waiting, waiting

TINY_SETTINGS = """\
# Settings that differ from the defaults; `preceptor STAGE --help` lists them all.
# These suit the tiny model that `preceptor pretrain` makes from your corpus.
base = "base"

[sft]
epochs = 6
lr = 1e-3
mix = 0.3

[reward]
batch = 8
lr = 1e-3
matrix_lr = 0.01

[ppo]
steps = 40
batch = 256
lr = 4e-4
value_lr = 5e-4
kl_coef = 0.1
ptx_coef = 1.0
"""


def make_workspace(directory: Path, base: str) -> Path:
    """Make the folder; `base` is a model folder, a hub name or `tiny`. Returns the folder."""
    if base == "tiny":
        return Workspace.create(directory, TINY_SETTINGS).root
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is no model folder: it has no config.json")
        base = str(folder.resolve())
    elif base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise UserError(f"there is no folder {base}; name a model folder, a hub name such as owner/model, or tiny")
    text = "# Settings that differ from the defaults; `preceptor STAGE --help` lists them all.\n"
    return Workspace.create(directory, f"{text}base = {json.dumps(base)}\n").root


def status_of(workspace: Workspace) -> dict[str, Any]:
    """Counts, models, releases and the next step."""
    store = workspace.store
    counts = store.counts()
    stages = model_stages(workspace)
    found = waiting(store)
    kept = ("prompts", "demonstrations", "completions", "rankings", "ratings", "labelers")
    return {
        "workspace": str(workspace.root),
        "base": workspace.settings.get("base", ""),
        "counts": {name: counts[name] for name in kept},
        "corpora": {c["name"]: c["documents"] for c in store.corpora()},
        "models": stages,
        "releases": {release.name: release.rows for release in store.releases()},
        "round": {
            "prompts": len(found.prompts),
            "sources": found.sources,
            "items": found.items,
            "rankings": found.rankings,
            "policy": current_policy(stages),
        },
        "next": next_step(workspace, counts, set(stages.values()), found),
    }


def model_stages(workspace: Workspace) -> dict[str, str]:
    """Model -> the stage that made it, by age; empty where its folder does not say."""
    cards = {name: workspace.model(name) / "preceptor.json" for name in workspace.models()}
    return {name: json.loads(path.read_text())["stage"] if path.is_file() else "" for name, path in cards.items()}


def current_policy(stages: dict[str, str]) -> str | None:
    """The newest model of PPO; without one, the newest of SFT. `stages`: model -> stage, by age."""
    for kinds in (("ppo", "ppo-ptx"), ("sft",)):
        names = [name for name, stage in stages.items() if stage in kinds]
        if names:
            return names[-1]
    return None


def next_step(workspace: Workspace, counts: dict[str, int], stages: set[str], found: Waiting) -> str:
    """The first step of the journey that has not been taken."""
    base = workspace.settings.get("base", "")
    missing_base = base == "base" and not (workspace.model(base) / "config.json").is_file()
    if missing_base and not counts["corpora"]:
        return "preceptor import corpus FILE...   (text for the base model)"
    if missing_base:
        return "preceptor pretrain"
    if not counts["demonstrations"]:
        return "preceptor import demonstrations FILE..., or have them written: preceptor web"
    if "sft" not in stages:
        return "preceptor sft"
    if not counts["rankings"]:
        return "preceptor sample --model sft, then have the answers ranked: preceptor web"
    if "reward" not in stages:
        return "preceptor reward"
    if not stages & {"ppo", "ppo-ptx"}:
        return "preceptor ppo --ptx-coef 1"
    if found.items:
        return f"have the {found.items:,} items in the queues ranked: preceptor web"
    if found.rankings:
        return f"preceptor reward, then preceptor ppo: {found.rankings:,} rankings are newer than the last release"
    if found.prompts:
        return "preceptor next-round   (draws answers to the prompts that wait, and queues them for ranking)"
    return "preceptor report, preceptor chat MODEL; more prompts come with consent from the API and the playground"


def status_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"workspace  {found['workspace']}", f"base       {found['base'] or 'none'}", ""]
    lines += [f"  {count:>9,}  {name}" for name, count in found["counts"].items()]
    lines += [f"  {count:>9,}  documents in the corpus {name}" for name, count in found["corpora"].items()]
    lines += ["", "models"] + [f"  {name:<24} {stage}" for name, stage in found["models"].items()]
    lines += ["", "releases"] + [f"  {name:<40} {rows:>9,} rows" for name, rows in found["releases"].items()]
    waits = found["round"]
    came = ", ".join(f"{count:,} from {name}" for name, count in waits["sources"].items())
    lines += ["", "next round", f"  {waits['prompts']:>9,}  new prompts wait{f' ({came})' if came else ''}"]
    lines += [f"  {waits['items']:>9,}  items wait in labelers' queues"]
    lines += [f"  {waits['rankings']:>9,}  rankings since the last release of rankings"]
    lines += [f"  answers are drawn from {waits['policy']}"] if waits["policy"] else []
    return [*lines, "", f"next: {found['next']}"]


def write_workspace_report(workspace: Workspace) -> Path:
    """The report of what the workspace holds: `reports/report.html`, or the demo's own page in a demo's folder."""
    kept = workspace.root / "reports" / "report.json"
    if (workspace.root / "demo.json").is_file() and kept.is_file():
        return write_report(_with_suites(workspace, kept), workspace.root / "report.html")
    store = workspace.store
    counts = store.counts()
    stored = read_stored(workspace)
    run, best = measured.overoptimisation(stored)
    judged = people.pairs(workspace)
    likert, flags = people.ratings(workspace)
    rankings = [ranking for ranking, _ in store.rankings()]
    ancestors = lineage(workspace)
    roles = {"pretrain": "base", "sft": "sft", "ppo": "ppo", "ppo-ptx": "ppo-ptx"}
    models = [a for a in ancestors if a.kind in roles]
    cards = {a.name: json.loads((workspace.model(a.name) / "preceptor.json").read_text()) for a in models}
    newest = next((a.name for a in reversed(models) if a.kind.startswith("ppo")), "")
    baseline = next((a.name for a in models if a.kind == "sft" and not a.name.endswith("-reference")), "")
    cohorts = {labeler.id: labeler.cohort for labeler in store.labelers()}
    sizes = [len(ranking.ranks) for ranking in rankings]
    return write_report(
        ReportData(
            workspace=workspace.root.name,
            created=datetime.now(UTC).isoformat(timespec="minutes"),
            version=__version__,
            main=newest,
            baseline=baseline,
            process=Process(
                base_given=not any(a.kind == "pretrain" for a in ancestors),
                demonstrations=counts["demonstrations"] or None,
                rankings=len(rankings) or None,
                comparisons=sum(len(ranking.comparisons()) for ranking in rankings) or None,
                labelers=len({ranking.labeler_id for ranking in rankings}) or None,
                k_smallest=min(sizes, default=None),
                k_largest=max(sizes, default=None),
            ),
            models=[
                Model(name=a.name, role=roles[a.kind], label=a.name, parameters=a.parameters)  # type: ignore[arg-type]
                for a in models
            ],
            training=training_curves(workspace),
            win_rates=[*measured.win_rates(stored), *people.preferences(judged, baseline)],
            strengths=[*measured.strengths(stored, baseline), *people.strengths(judged, baseline)],
            scores=[*likert, *people.toxicity(workspace)],
            components=flags,
            overoptimisation=run,
            best_of_n=best,
            tax=measured.tax(stored),
            measured=[*measured.measured(stored), *people.red_team(workspace)],
            losses=[
                Loss(model=name, loss=_point(card["metrics"]["pretraining_loss"]))
                for name, card in cards.items()
                if "pretraining_loss" in card["metrics"]
            ],
            agreement=[
                Agreement(group=f"{cohort} labelers", rate=rate)
                for cohort in ("training", "held-out")
                for rate in [_agreement([r for r in rankings if cohorts[r.labeler_id] == cohort])]
                if rate is not None
            ],
            lineage=ancestors,
            samples=[*_worst(stored), *measured.faults(stored, newest)],
            samples_rule=measured.samples_rule(stored),
            limits=[]
            if stored["win_rates"] or judged
            else ["Nothing here says that a model is better: no win rate was measured."],
            not_measured=measured.not_measured(stored),
        ),
        workspace.root / "reports" / "report.html",
    )


def _with_suites(workspace: Workspace, kept: Path) -> ReportData:
    """The demo's own data, and what `preceptor evaluate` has measured on its models since."""
    data, stored = ReportData.from_json(kept.read_text(encoding="utf-8")), read_stored(workspace)
    attacked = people.red_team(workspace)
    if not stored["suites"] and not attacked:
        return data
    gaps = [gap for gap in data.not_measured if not (stored["suites"] and gap.what.startswith("Public benchmarks"))]
    return replace(
        data,
        tax=measured.tax(stored),
        measured=[*measured.measured(stored), *attacked],
        samples=[*data.samples, *measured.faults(stored, data.main)],
        samples_rule=f"{data.samples_rule} {measured.FAULTS_RULE}".strip() if stored["suites"] else data.samples_rule,
        not_measured=[*gaps, *measured.not_measured(stored)],
    )


def _point(value: float) -> Interval:
    """A number that was stored without its spread."""
    return Interval(value=value, low=float("-inf"), high=float("inf"), n=1, clusters=1)


def _worst(stored: dict[str, Any]) -> list[Sample]:
    """The answers with which the models lost by most, by the judge of the comparison."""
    return [
        Sample(
            prompt=prompt,
            group="worst",
            slice=", ".join(part for part in (*case, row.get("cohort"), f"judged by the {row['judge']}") if part),
            answers=[Answer(model=row["model"], text=ours), Answer(model=row["baseline"], text=theirs)],
        )
        for row in stored["win_rates"]
        for prompt, ours, theirs, *case in row["worst"]
    ]


def _agreement(rankings) -> Interval | None:
    found = pairwise_agreement(rankings)
    if not found.pairs:
        return None
    return Interval(value=found.value, low=found.low, high=found.high, n=found.pairs, clusters=found.items)


def export_model(workspace: Workspace, name: str, directory: Path) -> Path:
    """Copy a model folder; an existing folder is refused, and a copy that fails leaves nothing."""
    source = workspace.find_model(name)
    if directory.exists():
        raise UserError(f"{directory} exists; name a folder that does not")
    new = directory.with_name(f".{directory.name}.new")
    try:
        shutil.copytree(source, new)
        new.rename(directory)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"cannot write {directory}: {error.strerror or error}; nothing was kept") from error
    return directory
