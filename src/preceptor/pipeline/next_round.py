"""`preceptor next-round`: what people asked since the last one goes to the current policy, its answers to the labelers.

Each step can be repeated: the draws are the same, a prompt is queued once.
"""

from dataclasses import dataclass
from typing import Any

from preceptor.config import SampleConfig, check_settings
from preceptor.errors import UserError
from preceptor.pipeline.workspace import current_policy, model_stages
from preceptor.store import Workspace
from preceptor.store.accounts import new_id
from preceptor.store.queues import Queue, Queues
from preceptor.store.waiting import waiting

K_MIN = 4  # different answers that a prompt needs to be ranked


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """`queued` of the waiting `prompts` are in the `queue` now; a dry run has no queue. `sources`: where they came
    from. `alike`: prompts left out because the model gave fewer than four different answers, or its context was too
    short for them."""

    model: str
    k: int
    prompts: int
    sources: dict[str, int]
    queued: int = 0
    alike: int = 0
    queue: str = ""

    def lines(self) -> list[str]:
        came = ", ".join(f"{count:,} from {name}" for name, count in self.sources.items())
        out = [f"{self.prompts:,} prompts wait{f' ({came})' if came else ''}", f"model: {self.model}, K = {self.k}"]
        if not self.prompts:
            return [*out, "nothing to prepare: people's prompts come through the API and the playground, with consent"]
        if not self.queue:
            return [*out, "dry run: nothing was drawn and nothing queued"]
        out.append(f"{self.queued:,} prompts are in the queue {self.queue!r}: preceptor web, to have them ranked")
        if self.alike:
            out.append(f"{self.alike:,} left out: fewer than {K_MIN} different answers, or no room in the context")
        return out


def prepare(
    workspace: Workspace, *, model: str | None, k: int, prompts: int | None, seed: int, dry_run: bool
) -> Prepared:
    """Draw `k` answers of `model` (the current policy when None) to the waiting prompts, and queue them for ranking.

    `prompts`: at most so many, the first by id; all when None. How answers are drawn stands in the table [sample] of
    `preceptor.toml`. Raises UserError where there is no model yet, or `k` is not 4 to 9.
    """
    from preceptor.training.sample import model_id, sample

    if not K_MIN <= k <= 9:
        raise UserError(f"k is {k}; labelers rank {K_MIN} to 9 answers")
    model = model or current_policy(model_stages(workspace))
    if model is None:
        raise UserError("no model of SFT or PPO to draw answers from; run: preceptor sft, or name one with --model")
    workspace.find_model(model)
    store = workspace.store
    found = waiting(store)
    chosen = list(found.prompts)[:prompts]
    plan = Prepared(model=model, k=k, prompts=len(chosen), sources=found.sources)
    if dry_run or not chosen:
        return plan
    with store.read() as connection:
        wanted = list(store.prompts_by_id(chosen, connection).values())
    table: dict[str, Any] = dict(check_settings(workspace.settings, "preceptor.toml").get("sample", {}))
    table |= {"model": model, "k": k, "seed": seed}
    table.pop("prompts", None)
    sample(workspace, SampleConfig(**table), wanted)
    queue, queued = _enqueue(Queues(store), model_id(workspace, model), chosen, k)
    return Prepared(
        model=model,
        k=k,
        prompts=len(chosen),
        sources=found.sources,
        queued=queued,
        alike=len(chosen) - queued,
        queue=queue,
    )


def _enqueue(queues: Queues, answers_of: str, prompts: list[str], k: int) -> tuple[str, int]:
    """Into the open queue of an earlier call with the same model, or a new one; returns its name and what was added."""
    name = f"Next round: {answers_of}"
    there = [queue for queue in queues.queues() if queue.name == name and queue.state == "open"]
    if there:
        return name, queues.fill(there[0].id, only=prompts)
    settings = {"kind": "rank", "rubric": "training-1", "k_min": K_MIN, "k_max": k, "models": (answers_of,)}
    queue = Queue(id=new_id("w"), name=name, **settings)
    queues.create(queue, only=prompts)
    return name, queues.progress()[queue.id]["items"]
