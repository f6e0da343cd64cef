"""Proxy against a stand-in for gold, over models that went ever further from where RL began (Gao et al. 2022).

Where there is no gold judge, reward models that RL never saw stand in for it: trained on held-out labelers' rankings,
or with other seeds. They may share the proxy's mistakes, and the report says so.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from preceptor.errors import UserError
from preceptor.models.load import load_scalar
from preceptor.pipeline.evaluate import Drawing, asked_prompts
from preceptor.pipeline.stored import read_stored, write_stored
from preceptor.rollout.subject import LocalSubject
from preceptor.statistics.interval import Interval
from preceptor.statistics.overoptimisation import best_of_n_kl, best_of_n_rewards
from preceptor.statistics.preference import mean_interval
from preceptor.store import Workspace
from preceptor.training.reward import score_episodes
from preceptor.types import Sampling


def over_optimisation(
    workspace: Workspace, models: Sequence[str], start: str, proxy: str, stand_ins: Sequence[str], how: Drawing
) -> dict[str, Any]:
    """KL, proxy and stand-in of answers of `start` and of each model, and best-of-n of `start`; kept for the report.

    KL is the mean over answers of the sum of log pi - log pi_start (k1, nats). The stand-in is the mean of the reward
    models in `stand_ins`, each in units of its own spread over the answers of `start`.
    """
    if how.temperature == 0 or how.samples < 2:
        raise UserError("--stand-in needs several drawn answers a prompt: --temperature above 0, --samples 2 or more")
    if proxy in stand_ins:
        raise UserError(f"{proxy} is the proxy itself; a stand-in is another reward model")
    prompts = asked_prompts(workspace, how)
    first = LocalSubject(workspace.find_model(start), name=start)
    judges = [load_scalar(workspace.find_model(name)) for name in (proxy, *stand_ins)]
    rows = [first.chat.prompt(prompt.messages) for prompt in prompts]
    sampling = Sampling(temperature=how.temperature, max_new_tokens=how.max_new_tokens, seed=how.seed)
    points, spread = [], np.ones(len(judges))
    for step, name in enumerate((start, *models)):
        subject = first if step == 0 else LocalSubject(workspace.find_model(name), name=name)
        groups = subject.episodes(rows, sampling, k=how.samples)
        flat = [episode for group in groups for episode in group]
        ends = (subject.chat.pad, subject.chat.eos)
        scores = np.array([score_episodes(judge, flat, *ends).tolist() for judge in judges])
        if step == 0:
            drawn, spread = scores, scores.std(axis=1)
            spread[spread == 0] = 1.0
        theirs = first.token_logprobs([e.prompt_tokens for e in flat], [e.answer_tokens for e in flat], how.temperature)
        kl = float(np.mean([sum(e.logprobs) - sum(row) for e, row in zip(flat, theirs)]))
        points.append({"model": name, "step": step, "kl": max(0.0, kl), **_both(scores, spread, how.samples)})
    found = {
        "model": models[-1] if models else start,
        "gold_name": "the mean of " + " and ".join(stand_ins) if len(stand_ins) > 1 else stand_ins[0],
        "prompts": f"{len(prompts)} prompts of the {how.split} split, {how.samples} answers each",
        "points": points,
        "best_of_n": _best_of_n(drawn, spread, how.samples),
    }
    stored = read_stored(workspace)
    write_stored(workspace, stored | {"overoptimisation": found})
    return found


def _gold(scores: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return (scores[1:] / spread[1:, None]).mean(axis=0)


def _both(scores: np.ndarray, spread: np.ndarray, samples: int) -> dict[str, Any]:
    places = np.arange(scores.shape[1]) // samples
    proxy, gold = mean_interval(scores[0] / spread[0], places), mean_interval(_gold(scores, spread), places)
    return {"proxy": proxy.to_json(), "gold": gold.to_json()}


def _best_of_n(scores: np.ndarray, spread: np.ndarray, samples: int) -> list[dict[str, Any]]:
    """For n = 1, 2, 4, ... up to the answers there are."""
    proxy, gold = (part.reshape(-1, samples) for part in (scores[0] / spread[0], _gold(scores, spread)))
    rows = []
    n = 1
    while n <= samples:
        intervals: list[Interval] = [mean_interval(best_of_n_rewards(proxy, value, n)) for value in (proxy, gold)]
        rows.append(
            {"n": n, "kl": float(best_of_n_kl(n)), "proxy": intervals[0].to_json(), "gold": intervals[1].to_json()}
        )
        n *= 2
    return rows
