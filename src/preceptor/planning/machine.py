"""What `preceptor plan --calibrate` learned of a machine: how its seconds and bytes follow from the shape of the work.

A step's work is counted in nominal seconds, by what it asks of the machine (`COSTS`): operations over the rate that
products of that size were measured at, bytes over the measured bandwidth. How many times its nominal seconds each kind
really takes is fitted to short real steps (non-negative least squares of relative errors, drawn weakly to 1).
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from preceptor.errors import UserError
from preceptor.planning import formulas as f
from preceptor.planning.memory import LOGIT_CHUNK, SCORED, Model, Setting
from preceptor.planning.work import Work

COSTS = (
    "products",  # matrix products, at the rate of their width and rows
    "attention",  # its two products, at the best rate
    "elements",  # bytes that a pass leaves behind, and everything that is written like them
    "drops",  # numbers that dropout draws
    "logits",  # bytes of logits
    "calls",  # layers called, 0.1 ms each
    "weights",  # bytes of weights read, cast and given gradients, per pass
    "updates",  # bytes of an optimizer step
    "decoding",  # layers called to draw a token, 0.1 ms each
    "drawing",  # bytes of weights, cache and numbers behind a token that is drawn
)
CALL = 1e-4  # seconds
DRAWN_TO_ONE = 0.05  # weight of the pull of every cost towards 1, beside a relative error of an observation
UPDATE_BYTES, AVERAGE_BYTES = 40, 12  # per parameter: norm, Adam's 4 reads and 3 writes, zeroing; lerp
FEW, MANY = 16, 512  # rows of the products that were timed
FORMAT = 1

Counts = dict[str, float]  # cost -> nominal seconds


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations per second of products [rows, width] x [width, 4 width], as measured."""

    widths: list[int]
    few: list[float]  # with FEW rows
    many: list[float]  # with MANY

    def at(self, width: float, rows: float) -> float:
        """Between the measured ones, straight in the logarithms; beyond them, the nearest."""
        few, many = (_between(self.widths, values, width) for values in (self.few, self.many))
        share = min(1.0, max(0.0, math.log(max(rows, 1) / FEW) / math.log(MANY / FEW)))
        return math.exp((1 - share) * math.log(few) + share * math.log(many))

    @property
    def best(self) -> float:
        return max(self.many)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Everything in the file that `--calibrate` writes. Seconds are those of one device."""

    date: str
    hardware: str
    device: str
    threads: int
    memory: float  # bytes of the device
    bandwidth: float  # bytes per second
    rates: dict[str, Rates]  # by precision
    times: dict[str, dict[str, float]]  # by precision: cost -> its seconds over the nominal ones
    base: float  # bytes of a process that has imported the trainer
    first: float  # bytes that its first step takes, whatever the model
    held: dict[str, float]  # stage and precision -> bytes that the process holds per byte that torch allocates
    misses: dict[str, float]  # precision -> the fit's mean relative error, on the steps it was fitted to

    def seconds(self, counts: Mapping[str, float], precision: str) -> float:
        return sum(self.times[precision][cost] * value for cost, value in counts.items())

    def resident(self, allocated: float, stage: str, precision: str) -> float:
        """Bytes of the process whose torch allocations reach `allocated`."""
        return self.base + self.first + self.held[f"{stage} {precision}"] * allocated

    def allocatable(self, most: float) -> float:
        """Bytes that torch may allocate in a process of at most `most` bytes."""
        return max(0.0, (most - self.base - self.first) / max(self.held.values()))

    def line(self) -> str:
        misses = ", ".join(f"{miss:.0%} in {name}" for name, miss in self.misses.items())
        return (
            f"calibrated {self.date[:10]} on {self.hardware}: {self.memory / f.GB:,.0f} GB, "
            f"{self.rates['fp32'].best / 1e9:,.0f} GFLOP/s in fp32, {self.rates['bf16'].best / 1e9:,.0f} in bf16, "
            f"{self.bandwidth / f.GB:,.1f} GB/s; its own steps are met within {misses} on average"
        )

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        new.rename(path)

    @staticmethod
    def read(path: Path) -> "Machine":
        """Raises UserError for a file that is not there, or that another version wrote."""
        if not path.is_file():
            raise UserError(f"there is no calibration {path}; make it with: preceptor plan --calibrate")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            if entries.pop("format") != FORMAT:
                raise ValueError("another format")
            entries["rates"] = {name: Rates(**values) for name, values in entries["rates"].items()}
            return Machine(**entries)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is no calibration of this version; make it anew: preceptor plan --calibrate"
            raise UserError(message) from error


def default_path() -> Path:
    """Where the calibration of this machine stands: the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "preceptor" / "machine.json"


# -- counting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nominal:
    """Counts work in nominal seconds."""

    rates: Rates
    bandwidth: float

    def passes(
        self, model: Model, passes: float, rows: int, length: int, logits: int, *, training: bool, dropout: bool = False
    ) -> Counts:
        """`passes` of `rows` sequences each, with the logits of `logits` tokens a row."""
        shape, times = model.shape, (3 if training else 1) * passes
        tokens = rows * length
        again = passes if training and rows * logits > max(1, LOGIT_CHUNK // shape.vocabulary) else 0
        products = times * 2 * tokens * shape.matrices / self.rates.at(shape.width, tokens)
        if logits:
            products += (times + again) * 2 * rows * logits * shape.head / self.rates.at(shape.width, rows * logits)
        attention = times * 2 * tokens * length * shape.layers * shape.attention_width
        dropped = tokens * shape.width * (2 * shape.layers + 1) * f.FP32 if dropout else 0.0
        left = tokens * (
            shape.layers * (model.training.per_layer + length * model.training.squared) + model.training.base
        )
        return {
            "products": products,
            "attention": attention / self.rates.best,
            "elements": times * left / self.bandwidth,
            "drops": times * dropped / self.bandwidth,
            "logits": (times + again) * rows * logits * shape.vocabulary * f.FP32 / self.bandwidth,
            "calls": times * (shape.layers + 1) * CALL,
            "weights": times * f.FP32 * model.parameters / self.bandwidth,
        }

    def update(self, model: Model, steps: float, average: bool = False) -> Counts:
        width = UPDATE_BYTES + (AVERAGE_BYTES if average else 0)
        return {"updates": steps * width * model.parameters / self.bandwidth}

    def rollout(self, model: Model, rows: int, prompt: int, answer: int) -> Counts:
        """Answers of `answer` tokens to `rows` prompts, all at once."""
        shape = model.shape
        operations = 2 * rows * answer * (shape.matrices + shape.head)
        read = f.FP32 * (shape.matrices + shape.head)
        read += f.cache_bytes(rows, prompt + answer // 2, shape.layers, shape.kv_heads, shape.head_width)
        read += f.draw_bytes(rows, shape.vocabulary)
        counts = self.passes(model, 1, rows, prompt, 1, training=False)
        counts["products"] += operations / self.rates.at(shape.width, rows)
        counts["decoding"] = answer * (shape.layers + 1) * CALL
        counts["drawing"] = answer * read / self.bandwidth
        return counts


def add(*parts: Counts) -> Counts:
    return {cost: sum(part.get(cost, 0.0) for part in parts) for cost in COSTS}


def part_counts(
    stage: str, models: Mapping[str, Model], work: Work, nominal: Nominal, gpus: int = 1
) -> dict[str, Counts]:
    """The parts of an optimizer step (sft, reward) or of an iteration (ppo) on one of `gpus` devices."""
    if stage == "sft":
        return {"step": _sft(models["sft"], work, nominal, gpus)}
    if stage == "reward":
        return {"step": _reward(models["reward"], work, nominal, gpus)}
    return _ppo(models["policy"], models["value"], work, nominal, gpus)


def stage_seconds(
    stage: str, models: Mapping[str, Model], s: Setting, machine: Machine, micro: int
) -> tuple[float, float]:
    """(seconds of learning and judging, seconds of drawing answers) of a whole stage, without the network's.

    Adapters are timed as if all weights were trained; checkpointed layers make their forward pass twice."""
    work = replace(s.work, **{f"{stage}_micro_batch": micro})
    nominal = Nominal(machine.rates[work.precision], machine.bandwidth)
    parts = part_counts(stage, models, work, nominal, s.gpus)
    seconds = {name: machine.seconds(counts, work.precision) for name, counts in parts.items()}
    if s.layout.checkpointing:
        trained = "learn" if stage == "ppo" else "step"
        seconds[trained] *= 4 / 3
    steps = {
        "sft": work.sft_epochs * -(-work.demonstrations // work.sft_batch),
        "reward": work.reward_epochs * -(-work.rankings // work.reward_batch),
        "ppo": work.iterations,
    }[stage]
    drawing = seconds.pop("act", 0.0)
    return steps * sum(seconds.values()), steps * drawing


def _split(rows: int, gpus: int, micro: int) -> list[tuple[float, int]]:
    """(passes, rows in each) of a step's rows on one device."""
    own = -(-rows // gpus)
    whole, rest = divmod(own, micro)
    return [(passes, size) for passes, size in ((whole, micro), (1 if rest else 0, rest)) if passes]


def _sft(model: Model, work: Work, nominal: Nominal, gpus: int) -> Counts:
    done = [
        nominal.passes(model, passes, rows, work.sft_tokens, work.sft_tokens, training=True, dropout=model.drops)
        for passes, rows in _split(work.sft_batch, gpus, work.sft_micro_batch)
    ]
    return add(*done, nominal.update(model, 1))


def _reward(model: Model, work: Work, nominal: Nominal, gpus: int) -> Counts:
    done = [
        nominal.passes(model, passes, rows * work.answers, work.reward_tokens, 0, training=True)
        for passes, rows in _split(work.reward_batch, gpus, work.reward_micro_batch)
    ]
    return add(*done, nominal.update(model, 1))


def _ppo(policy: Model, value: Model, work: Work, nominal: Nominal, gpus: int) -> dict[str, Counts]:
    length, answer = work.prompt_tokens + work.answer_tokens, work.answer_tokens
    own = -(-work.episodes // gpus)
    judged: list[Counts] = []
    for passes, rows in _split(work.episodes, gpus, min(work.ppo_micro_batch, SCORED)):
        judged.append(nominal.passes(policy, passes, rows, length, answer, training=False))
        judged.append(nominal.passes(value, passes, rows, length, 0, training=False))
    scored = [
        nominal.passes(value, passes, rows, length, 0, training=False)
        for passes, rows in _split(work.episodes, gpus, SCORED)
    ]
    steps = work.minibatches
    learned: list[Counts] = []
    for passes, rows in _split(work.minibatch, gpus, work.ppo_micro_batch):
        learned.append(nominal.passes(policy, steps * passes, rows, length, answer, training=True))
        learned.append(nominal.passes(value, steps * passes, rows, length, 0, training=True))
    for passes, rows in _split(work.text_rows, gpus, work.text_micro_batch) if work.text_rows else ():
        text = work.text_tokens
        learned.append(nominal.passes(policy, steps * passes, rows, text, text, training=True))
    learned += [nominal.update(policy, steps, work.average), nominal.update(value, steps)]
    return {
        "act": add(nominal.rollout(policy, own, work.prompt_tokens, answer)),
        "assess": add(*judged, *scored),
        "learn": add(*learned),
    }


# -- fitting --------------------------------------------------------------------------------------------------------


def fit_times(observed: Sequence[tuple[Counts, float]]) -> tuple[dict[str, float], float]:
    """(cost -> times its nominal seconds, mean relative error), from counts and the seconds they took."""
    import numpy as np
    from scipy.optimize import nnls

    rows = [[counts.get(cost, 0.0) / seconds for cost in COSTS] for counts, seconds in observed]
    pull = DRAWN_TO_ONE * np.eye(len(COSTS))
    matrix = np.vstack([np.array(rows), pull])
    wanted = np.concatenate([np.ones(len(rows)), np.full(len(COSTS), DRAWN_TO_ONE)])
    found, _ = nnls(matrix, wanted)
    misses = np.abs(np.array(rows) @ found - 1)
    return dict(zip(COSTS, map(float, found))), float(misses.mean())


def fit_memory(observed: Sequence[tuple[str, float, float]]) -> tuple[float, dict[str, float]]:
    """(bytes whatever the model, kind of work -> bytes per allocated byte) of a process beyond its imports.

    `observed`: the kind of work, predicted allocations, and what the process took."""
    import numpy as np
    from scipy.optimize import nnls

    kinds = sorted({kind for kind, _, _ in observed})
    taken = np.array([row[2] for row in observed])
    scale = float(np.mean([row[1] for row in observed]))  # columns of one size, for the solver's sake
    matrix = [[scale] + [allocated * (kind == each) for each in kinds] for kind, allocated, _ in observed]
    found = nnls(np.array(matrix) / taken[:, None], np.ones(len(taken)))[0]
    return float(found[0] * scale), dict(zip(kinds, map(float, found[1:])))


def _between(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """Straight between the given points, in the logarithms of places and values."""
    if place <= places[0]:
        return values[0]
    for low, high, one, other in zip(places, places[1:], values, values[1:]):
        if place <= high:
            share = math.log(place / low) / math.log(high / low)
            return math.exp((1 - share) * math.log(one) + share * math.log(other))
    return values[-1]
