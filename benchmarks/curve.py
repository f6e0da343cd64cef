"""Do both PPOs learn the same? A planted reward model, and the curves of learning from it.

Every fourth id is a good token. The reward model's score grows with the share of good tokens among all that it has
read, so a policy can learn it, and how far it has come can be counted from its answers' ids alone: both sides'
answers are counted by `share_good`, whatever their own scores say and wherever these are read.

The peer's settings are ours: one Adam, a constant rate, no cutting of gradients (TRL's PPO has none).
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from material import EOS, FIRST_WORD, Shape, Sizes, config_of, make_tokenizer

SEEDS = (1, 2, 3)  # of the policy's weights, the prompts and the draws; LR was tried with seed 0
TASKS = {f"curve_{seed}": seed for seed in SEEDS}
LR = 1e-3
EVERY = 4  # one token in so many is good
GAIN = 4.0  # score of a text of nothing but good tokens
LAST = 5  # iterations at the end whose mean is compared
T = 4.303  # Student's t, two sides, 95 %, for three seeds


def share_good(answers: Iterable[Sequence[int]]) -> float:
    """Share of good tokens among the tokens of all answers."""
    good = [token % EVERY == 0 for answer in answers for token in answer]
    return sum(good) / len(good)


def write_curve(folder: Path, sizes: Sizes) -> None:
    """`folder/planted`, and of each seed `folder/curve_SEED` with the policy and its `prompts.json`."""
    import torch
    from transformers import GPT2LMHeadModel

    tokenizer = make_tokenizer(sizes.curve.vocabulary)
    planted(sizes.curve).save_pretrained(folder / "planted")
    tokenizer.save_pretrained(folder / "planted")
    for task, seed in TASKS.items():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config_of(sizes.curve))
        never_end(model)
        model.save_pretrained(folder / task)
        tokenizer.save_pretrained(folder / task)
        draw = np.random.default_rng(seed)
        longest = sizes.curve_answer // 2
        prompts = [
            draw.integers(FIRST_WORD, sizes.curve.vocabulary, draw.integers(longest // 2, longest + 1)).tolist()
            for _ in range(8 * sizes.curve_episodes)
        ]
        (folder / task / "prompts.json").write_text(json.dumps(prompts))


def never_end(model) -> None:
    """All answers have full length. The first coordinate is the end-of-text token's own, so that no other moves."""
    import torch

    with torch.no_grad():
        embedding = model.transformer.wte.weight
        embedding[:, 0] = 0
        embedding[EOS] = 0
        embedding[EOS, 0] = 1
        model.transformer.ln_f.bias[0] = -20


def planted(shape: Shape):
    """A reward model of one layer: attention looks at all tokens alike, so that it passes on the mean of what a token
    carries, 1 if it is good and -1 if not; the score is GAIN times that mean, but for the last layer norm, which
    leaves the order as it is. End-of-text counts as 0."""
    import torch
    from transformers import GPT2ForSequenceClassification

    width = shape.width
    kind, seen, end = (torch.tensor([1.0, -1.0]).repeat_interleave(n).repeat(width // (2 * n)) for n in (1, 2, 4))
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(config_of(Shape(1, width, shape.heads, shape.vocabulary, shape.context)))
    model.config.num_labels = 1
    model.score = torch.nn.Linear(width, 1, bias=False)
    [layer] = model.transformer.h
    good = (torch.arange(shape.vocabulary) % EVERY == 0)[:, None]
    weak = 0.25  # of the mean beside the token's own embedding, so that the last layer norm hardly bends it
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.where(good, kind, -kind))
        model.transformer.wte.weight[:FIRST_WORD] = end
        model.transformer.wpe.weight.zero_()
        layer.attn.c_attn.weight[:, :width] = 0  # queries
        layer.attn.c_attn.weight[:, 2 * width :] = torch.outer(kind, seen) / width  # values
        layer.attn.c_proj.weight.copy_(weak * torch.eye(width))
        layer.mlp.c_proj.weight.zero_()
        model.score.weight.copy_(GAIN / (weak * width) * seen)
    return model


def compared_curves(found: dict[str, dict]) -> dict:
    """Of each side the share of good tokens in every iteration, a list for each seed; and over several spans of
    iterations the difference ours - the peer's, paired by seed, with its 95 % interval."""
    curves = {
        side: [
            [report["share"] for report in outcome["sides"][side]["warm"] + outcome["sides"][side]["reports"]]
            for outcome in found.values()
        ]
        for side in ("ours", "peer")
    }
    length = len(curves["ours"][0])
    spans = {"first": (0, 1), "early": (length // 8, length // 8 + LAST), "middle": (length // 2, length // 2 + LAST)}
    spans |= {"last": (length - LAST, length), "all": (0, length)}
    return {
        "seeds": list(SEEDS),
        **curves,
        "spans": {name: difference(*curves.values(), *span) for name, span in spans.items()},
    }


def difference(ours: list[list[float]], peer: list[list[float]], first: int, end: int) -> dict:
    """Of the means over iterations `first` (from 0) to before `end`."""
    sides = [[mean(curve[first:end]) for curve in curves] for curves in (ours, peer)]
    gaps = [ours - peer for ours, peer in zip(*sides)]
    middle, half = mean(gaps), T * stdev(gaps) / math.sqrt(len(gaps))
    return {
        "iterations": [first + 1, end],
        "ours": {"mean": mean(sides[0]), "sd": stdev(sides[0])},
        "peer": {"mean": mean(sides[1]), "sd": stdev(sides[1])},
        "difference": middle,
        "interval": [middle - half, middle + half],
        "within_noise": abs(middle) <= half,
    }


def curve_lines(detail: dict, sizes: Sizes) -> list[str]:
    """The curves as a part of the page."""
    spans, seeds = detail["spans"], len(detail["seeds"])
    lines = [
        "## Reward curves",
        "",
        "Share of good tokens in the answers, PPO against a planted reward model whose score grows with that share;",
        f"one token in {EVERY} is good. {len(detail['ours'][0])} iterations of {sizes.curve_episodes} episodes of "
        f"{sizes.curve_answer} tokens, 8 optimizer steps",
        f"each, learning rate {LR:g}, fp32, the same settings on both sides. Mean ± standard deviation over {seeds} "
        "seeds; the",
        "difference is ours - TRL's, paired by seed, with its 95 % interval (t). Within noise: the interval holds 0.",
        "",
        "| iterations | ours | TRL | difference | within noise |",
        "|---|---|---|---|---|",
    ]
    for name, span in spans.items():
        first, end = span["iterations"]
        cells = [f"{span[side]['mean']:.3f} ± {span[side]['sd']:.3f}" for side in ("ours", "peer")]
        low, high = span["interval"]
        lines.append(
            f"| {name}: {first}{f' to {end}' if end > first else ''} | {cells[0]} | {cells[1]} "
            f"| {span['difference']:+.4f} ({low:+.4f} to {high:+.4f}) | {'yes' if span['within_noise'] else '**no**'} |"
        )
    return [*lines, ""]
