"""What both sides of a benchmark are given: the same models, from the same files, and the same tokens.

The models are GPT-2-shaped with random weights, the text is random: the figures speak of speed and memory and say
nothing about learning (`curve.py` does). Needs torch, transformers and tokenizers only, so that peers can read it too.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

EOS, PAD = 0, 1
FIRST_WORD = 2  # ids from here on are words


@dataclass(frozen=True, slots=True)
class Shape:
    """A GPT-2 shape. Context is in tokens."""

    layers: int
    width: int
    heads: int
    vocabulary: int = 4096
    context: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much work a benchmark does."""

    small: Shape = Shape(6, 256, 4)
    medium: Shape = Shape(7, 512, 8)
    curve: Shape = Shape(2, 64, 2, 512, 64)
    sft_batch: int = 16  # demonstrations per optimizer step
    comparisons: int = 36  # per optimizer step of the reward model: one ranking of 9, or six of 4
    episodes: int = 64  # per PPO iteration, learned from in eight optimizer steps
    prompts: int = 64  # of the generation benchmark, 4 answers each
    rows: int = 64  # answers drawn at once there
    answer: int = 48  # new tokens at most
    steps: int = 40  # optimizer steps for which there is data
    sft_rounds: int = 10
    rm_rounds: int = 7
    ppo_rounds: int = 3
    generate_rounds: int = 3
    medium_rounds: int = 20
    lora_rounds: int = 2
    curve_episodes: int = 64
    curve_answer: int = 24
    curve_rounds: int = 38  # iterations, after the two of the rehearsal


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        episodes=16,
        prompts=16,
        sft_rounds=4,
        rm_rounds=2,
        ppo_rounds=2,
        generate_rounds=2,
        medium_rounds=2,
        lora_rounds=1,
        curve_rounds=0,
    ),
    "toy": Sizes(
        small=Shape(1, 32, 2, 128, 64),
        medium=Shape(1, 32, 2, 128, 64),
        curve=Shape(1, 32, 2, 128, 64),
        sft_batch=4,
        episodes=8,
        prompts=4,
        rows=8,
        answer=8,
        steps=4,
        sft_rounds=1,
        rm_rounds=1,
        ppo_rounds=1,
        generate_rounds=1,
        medium_rounds=1,
        lora_rounds=1,
        curve_episodes=8,
        curve_answer=8,
        curve_rounds=8,
    ),
}


def write_material(folder: Path, sizes: Sizes, seed: int = 0) -> None:
    """Models and token ids of a benchmark: `folder/{full,ragged,medium,reward,reward-medium}`, `folder/tokens.json`."""
    import torch
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    tokenizer = make_tokenizer(sizes.small.vocabulary)
    places = {"full": (sizes.small, None), "ragged": (sizes.small, sizes.answer / 2), "medium": (sizes.medium, None)}
    for name, (shape, mean) in places.items():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config_of(shape)).eval()
        set_ending(model, mean, sizes.answer)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, shape in {"reward": sizes.small, "reward-medium": sizes.medium}.items():
        torch.manual_seed(seed)
        reward = GPT2ForSequenceClassification(config_of(shape, num_labels=1))
        reward.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    draw = np.random.default_rng(seed)
    lengths = (8, 16) if sizes.answer < 32 else (32, 64)
    tokens = {
        "sft": [[example(draw, sizes, lengths) for _ in range(sizes.sft_batch)] for _ in range(sizes.steps)],
        "rankings_9": [rankings(draw, sizes, lengths, 9) for _ in range(sizes.steps)],
        "rankings_4": [rankings(draw, sizes, lengths, 4) for _ in range(sizes.steps)],
        "prompts": [words(draw, sizes, lengths) for _ in range(max(sizes.prompts, 8 * sizes.episodes))],
    }
    (folder / "tokens.json").write_text(json.dumps(tokens))
    (folder / "sizes.json").write_text(json.dumps(asdict(sizes)))


def read_sizes(folder: Path) -> Sizes:
    values = json.loads((folder / "sizes.json").read_text())
    return Sizes(**{**values, **{name: Shape(**values[name]) for name in ("small", "medium", "curve")}})


def read_tokens(folder: Path) -> dict:
    return json.loads((folder / "tokens.json").read_text())


def words(draw: np.random.Generator, sizes: Sizes, lengths: tuple[int, int]) -> list[int]:
    """A text of `lengths` (least, most) tokens."""
    return draw.integers(FIRST_WORD, sizes.small.vocabulary, draw.integers(lengths[0], lengths[1] + 1)).tolist()


def example(draw: np.random.Generator, sizes: Sizes, lengths: tuple[int, int]) -> dict[str, list[int]]:
    return {"prompt": words(draw, sizes, lengths), "answer": [*words(draw, sizes, lengths)[1:], EOS]}


def rankings(draw: np.random.Generator, sizes: Sizes, lengths: tuple[int, int], k: int) -> list[dict]:
    """The rankings of one optimizer step: answers from best to worst, without ties."""
    count = sizes.comparisons // (k * (k - 1) // 2)
    return [
        {
            "prompt": words(draw, sizes, lengths),
            "answers": [[*words(draw, sizes, lengths)[1:], EOS] for _ in range(k)],
        }
        for _ in range(count)
    ]


def pairs_of(ranking: dict) -> list[dict[str, list[int]]]:
    """All comparisons of a ranking, as whole sequences: what a trainer that knows pairs only is given."""
    rows = [ranking["prompt"] + answer for answer in ranking["answers"]]
    return [{"chosen_ids": rows[i], "rejected_ids": rows[j]} for i in range(len(rows)) for j in range(i + 1, len(rows))]


def config_of(shape: Shape, **more):
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=shape.context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **more,
    )


def make_tokenizer(vocabulary: int):
    """A word per id. Trainers want a tokenizer to know the end-of-text and padding ids; they are given ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = {"<|endoftext|>": EOS, "<|pad|>": PAD} | {f"w{i}": i for i in range(FIRST_WORD, vocabulary)}
    model = Tokenizer(models.WordLevel(entries, unk_token="<|pad|>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|endoftext|>", pad_token="<|pad|>")


def set_ending(model, mean: float | None, limit: int, temperature: float = 0.7) -> None:
    """Make answers end early or never, in the weights themselves, so that every engine draws from the same model.

    The bias of the last layer norm is a multiple of the end-of-text embedding, which moves that token's logit and
    hardly any other. `mean`: expected tokens of an answer of at most `limit`; None: no answer ends before the limit.
    """
    import torch

    ids = torch.randint(FIRST_WORD, model.config.vocab_size, (8, min(64, model.config.n_positions)))
    towards = model.transformer.wte.weight[EOS].detach()
    towards = towards / towards.norm() ** 2
    low, high = -20.0, 20.0
    with torch.no_grad():
        for _ in range(30 if mean is not None else 0):
            model.transformer.ln_f.bias.copy_(towards * (low + high) / 2)
            logits = model(input_ids=ids).logits / temperature
            probability = float(torch.softmax(logits, -1)[..., EOS].mean())
            if expected_length(probability, limit) > mean:
                low = (low + high) / 2
            else:
                high = (low + high) / 2
        model.transformer.ln_f.bias.copy_(towards * (-20.0 if mean is None else (low + high) / 2))


def expected_length(probability: float, limit: int) -> float:
    """Mean tokens of an answer that ends at each token with this probability, and at `limit`."""
    return (1 - (1 - probability) ** limit) / max(probability, 1e-12)
