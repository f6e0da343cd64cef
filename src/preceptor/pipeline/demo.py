"""`preceptor demo`: the whole loop with simulated people, from nothing to a report, on two cores."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from preceptor.errors import UserError
from preceptor.intake.corpus import import_corpus
from preceptor.pipeline import summary
from preceptor.pipeline.recipe import DECODINGS, LARGE, SMALL, K, Recipe
from preceptor.pipeline.workers import Workers
from preceptor.report.build import write_report
from preceptor.simulation.labelers import labelers
from preceptor.simulation.web import web_documents
from preceptor.simulation.world import World
from preceptor.statistics.preference import smallest_detectable
from preceptor.store import Workspace

MARK = "demo.json"  # what makes a folder a demo's, and says which

SETTINGS = """\
# A workspace of `preceptor demo`. Every stage's settings may stand in a table of its name.
base = "base-small"

[sft]
epochs = 6
lr = 1e-3
mix = 0.37

[reward]
model = "sft-small"
batch = 8
lr = 1e-3
matrix_lr = 0.01

[ppo]
reference = "sft-small"
reward_model = "reward-2"
steps = 40
batch = 256
lr = 4e-4
value_lr = 5e-4
warmup = 5
kl_coef = 0.1
ema = 0.0
max_new_tokens = 48

[sample]
max_new_tokens = 48
"""


class Story:
    """What the demo says while it works: numbered steps, each with what came of it and the time since the start."""

    def __init__(self, console: Console):
        self.console, self.started, self.number = console, time.monotonic(), 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def step(self, text: str) -> None:
        self.number += 1
        self.console.print(f"\n[bold]{self.number}. {text}[/bold]")

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(self.seconds), 60)
        self.console.print(f"   {minutes}:{seconds:02d}  {text}", highlight=False)


def demo(root: Path, recipe: Recipe, console: Console) -> Path:
    """Run the loop in `root` and leave models, data, `results.json` and `report.html` there. Returns the report.

    A demo that was interrupted goes on when it is started again with the same folder and seed.
    """
    workspace = open_folder(root, recipe.seed)
    story = Story(console)
    story.say(
        f"Preceptor's demo, seed {recipe.seed}. Everything happens in {workspace.root}; it takes about eight minutes."
    )
    with Workers(workspace.root, console) as workers:
        found = run(workspace, recipe, workers, story)
        peak = workers.peak_rss_mib
    story.step("Report")
    data = summary.report_data(workspace, recipe, found, seconds=story.seconds, peak_rss_mib=peak)
    results = summary.results(data, found, recipe)
    write_json(workspace.root / "results.json", results)
    write_json(workspace.root / "reports" / "report.json", json.loads(data.to_json()))
    report = write_report(data, workspace.root / "report.html")
    for line in summary.headline(data):
        console.print(line, highlight=False)
    console.print(
        f"\nThe report: {report}\n"
        f"Talk to the model:  preceptor chat ppo-ptx-small --workspace {workspace.root}\n"
        "Your own data:      preceptor init my-workspace --base MODEL, then preceptor import --help",
        highlight=False,
    )
    return report


def open_folder(root: Path, seed: int) -> Workspace:
    mark = root / MARK
    if mark.is_file():
        before = json.loads(mark.read_text())["seed"]
        if before != seed:
            raise UserError(f"{root} holds the demo of seed {before}; use --seed {before} or another --dir")
        return Workspace(root)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty and holds no demo; choose another folder with --dir")
    workspace = Workspace.create(root, SETTINGS)
    write_json(mark, {"seed": seed})
    return workspace


def run(workspace: Workspace, recipe: Recipe, workers: Workers, story: Story) -> dict[str, Any]:
    """The loop itself. Returns what was measured."""
    story.step("A base model learns to write (pretraining)")
    world = World.of(recipe.seed)
    story.say("The text is the web of a made-up country: question pages, profiles, stories, and rude replies.")
    tokens = write_web(workspace, world, recipe)
    story.say(f"{tokens:,} words. Two models read it: one small, and one more than four times as large, in parallel.")
    large = workers.start("stage", recipe.pretrain_large())
    [small] = workers.wait(workers.start("stage", recipe.pretrain_small()))
    story.say(f"The small model's loss on unseen text: {small['pretraining_loss']:.3f} nats per token.")

    story.step("Labelers show what a good answer looks like (demonstrations, SFT)")
    [written] = workers.wait(workers.start("write_demonstrations", recipe))
    story.say(f"{written or recipe.demonstrations} demonstrations, most of them written in a hurry.")
    workers.wait(workers.start("stage", recipe.sft()))
    story.say("The small model has imitated them: it is now sft-small.")

    story.step("Labelers rank the model's answers, a reward model learns their taste (round 1)")
    [first] = workers.wait(workers.start("labelling_round", recipe, 1, ["sft-small"], recipe.round_1))
    story.say(f"{recipe.round_1:,} prompts with {K} answers each, ranked by simulated labelers, ties allowed.")
    workers.wait(workers.start("stage", recipe.reward("reward-1", first["release"])))
    story.say("The reward model predicts which answer a labeler would prefer. A first, short PPO follows it.")
    early = recipe.ppo("ppo-round-1", "reward-1", release=first["prompts"], steps=recipe.first_ppo_steps, ptx_coef=1.0)
    workers.wait(workers.start("stage", early))

    story.step("Labelers rank answers of the improved model too (round 2)")
    mixed = ["sft-small", "ppo-round-1"]
    [second] = workers.wait(workers.start("labelling_round", recipe, 2, mixed, recipe.round_2))
    [overlap] = workers.wait(workers.start("overlap_round", recipe, mixed))
    story.say(f"{recipe.round_2:,} more prompts, and {recipe.overlap} that every labeler ranks, to see how they agree.")
    workers.wait(workers.start("stage", recipe.reward("reward-2", second["release"])))
    story.say(f"A second reward model has learned from all {second['rows']:,} rankings.")

    story.step("Reinforcement learning against the reward model (PPO, PPO-ptx)")
    runs = {
        "ppo-ptx": workers.start(
            "stage", recipe.ppo("ppo-ptx-small", "reward-2", release=second["prompts"], ptx_coef=1.0)
        ),
        "ppo": workers.start("stage", recipe.ppo("ppo-small", "reward-2", release=second["prompts"])),
        "over": workers.start("over_optimise", recipe, recipe.over_optimised("reward-2", release=second["prompts"])),
    }
    measure = Measuring(workers, recipe)
    measure.start("rm 1", "reward_judgements", "reward-1")
    measure.start("rm 2", "reward_judgements", "reward-2")
    measure.start("checks", "reward_checks", "reward-2")
    measure.start("best of n", "best_of_n", "sft-small", "reward-2")
    prefix = {SMALL: workers.start("choose_prefix", recipe, SMALL, "reward-2")}
    measure.model("sft-small", against=None)
    ptx, ppo = workers.wait(runs["ppo-ptx"], runs["ppo"])
    story.say(
        f"PPO-ptx ended {ptx['kl_to_reference']:.2f} nats per answer away from its start, "
        f"PPO {ppo['kl_to_reference']:.2f}. A third run has no price on that distance, to see what goes wrong."
    )
    measure.model("ppo-small", against="sft-small")
    measure.model("ppo-ptx-small", against="sft-small")
    [big] = workers.wait(large)
    story.say(f"The large base model's loss on unseen text: {big['pretraining_loss']:.3f} nats per token.")
    prefix[LARGE] = workers.start("choose_prefix", recipe, LARGE, "reward-2")

    story.step("Everyone answers the prompts of users that no model has met (evaluation)")
    detectable = smallest_detectable(recipe.test_prompts * recipe.samples, recipe.test_prompts, 0.3)
    story.say(
        f"{recipe.test_prompts} prompts, {recipe.samples} answers each; a win rate {100 * detectable:.1f} points from "
        "50 % can be told from chance."
    )
    for base, chosen in zip(prefix, workers.wait(*prefix.values())):
        measure.base(base, chosen["prefix"])
    [over] = workers.wait(runs["over"])
    measure.start("losses over-optimised", "losses", "over-optimised", seeded=False)
    measure.start("answers over-optimised T = 1", "answers", "over-optimised", "T = 1", 1.0, None, "sft-small")
    return measure.results() | {"detectable": detectable, "over": over, "overlap_rankings": overlap}


class Measuring:
    """Measurements under way, by name, in the order in which the workers take them up."""

    def __init__(self, workers: Workers, recipe: Recipe):
        self.workers, self.recipe = workers, recipe
        self.futures: dict[str, Any] = {}

    def start(self, name: str, job: str, *arguments, seeded: bool = True) -> None:
        given = (self.recipe, *arguments) if seeded else arguments
        self.futures[name] = self.workers.start(job, *given)

    def model(self, model: str, against: str | None) -> None:
        """A fine-tuned model's answers in every decoding, and its loss on pretraining text."""
        for decoding, temperature in DECODINGS.items():
            other = against if temperature == 1 else None
            self.start(f"answers {model} {decoding}", "answers", model, decoding, temperature, None, other)
        self.start(f"losses {model}", "losses", model, seeded=False)

    def base(self, base: str, prefix: str) -> None:
        """A base model's answers, raw and after its few-shot prefix, and its loss."""
        for name, text in ((base, ""), (f"{base}-prompted", prefix)):
            for decoding, temperature in DECODINGS.items():
                self.start(f"answers {name} {decoding}", "answers", base, decoding, temperature, text, None)
        self.start(f"losses {base}", "losses", base, seeded=False)

    def results(self) -> dict[str, Any]:
        return dict(zip(self.futures, self.workers.wait(*self.futures.values())))


def write_web(workspace: Workspace, world: World, recipe: Recipe) -> int:
    """The pretraining text as the workspace's corpus; returns the number of words."""
    path = workspace.root / "world" / "web.jsonl"
    path.parent.mkdir(exist_ok=True)
    words = 0
    with open(path, "w", encoding="utf-8") as file:
        for text in web_documents(world, recipe.web_tokens, recipe.seed):
            words += len(text.split())
            file.write(json.dumps({"text": text}) + "\n")
    import_corpus(workspace, [path], name="web", progress=False)
    people = [{**asdict(s.labeler), "noise": round(s.noise, 2)} for s in labelers(recipe.seed)]
    write_json(workspace.root / "world" / "labelers.json", people)
    return words


def write_json(path: Path, value: Any) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)
