"""Hugging Face models in: policies, scalar models (reward, value) and tokenizers. Safetensors only."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from preceptor.errors import UserError
from preceptor.models.adapters import CONFIG, Adapter, merge, put_adapter, read_adapter
from preceptor.models.attention import install
from preceptor.models.divided import read_divided
from preceptor.models.save import lineage, read_card
from preceptor.models.shard import like, several, shard

BIAS = "preceptor_bias"  # config key of a reward model: added to every score
# What files raise that are not as they say.
FAULTS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
HEADS = ("score.weight", "score.bias", "classifier.weight", "classifier.bias")

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def masked_attention(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model attends through kernels that take the rollout engine's masks: of any shape, boolean."""
    kernels = model.config._attn_implementation
    if kernels not in ("eager", "flash_attention_2", "flash_attention_3", "flex_attention"):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(kernels)


def load_tokenizer(source: str | Path):
    """The tokenizer of a model folder or hub name."""
    if Path(source).is_dir():
        files = {path.name for path in Path(source).iterdir()}
        if not files & {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"}:
            raise UserError(
                f"{source} has no tokenizer; copy tokenizer.json and tokenizer_config.json of its base there"
            )
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise UserError(f"cannot load the tokenizer of {source}: {reason(error)}") from error


def context_length(source: str | Path) -> int:
    """Tokens that a model can look at: the positions of its config; without such a number, as good as endless."""
    return getattr(read_config(source).get_text_config(), "max_position_embeddings", None) or sys.maxsize


def load_policy(
    source: str | Path,
    device: torch.device | None = None,
    *,
    dropout: float = 0.0,
    attention: str = "sdpa",
    divided: bool = False,
    frozen: bool = False,
) -> PreTrainedModel:
    """A causal language model in fp32, in evaluation mode, with every dropout of its config set to `dropout`.

    `attention`: kernels by their name in transformers' attention interface. `divided`: over the ranks, where there are
    several; each reads its own part only. `frozen`: without gradients.

    Raises UserError for a folder without config or safetensors weights, or an architecture whose logits are not its
    unembedding of its last hidden state (see `logprobs.check_projection`).
    """
    from preceptor.models.logprobs import check_projection

    config = read_config(source)
    for name in ("resid_pdrop", "hidden_dropout", "embd_pdrop"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    for name in ("attention_dropout", "attn_pdrop", "classifier_dropout"):
        if getattr(config, name, None) is not None:
            setattr(config, name, 0.0)
    model = _load(AutoModelForCausalLM, source, config, attention, device, divided=divided, frozen=frozen)
    check_projection(model)
    return model


def load_scalar(
    source: str | Path,
    device: torch.device | None = None,
    *,
    attention: str = "sdpa",
    divided: bool = False,
    frozen: bool = False,
) -> PreTrainedModel:
    """A model with one score per token: a reward or value model, `AutoModelForSequenceClassification`, one label.
    Options as in `load_policy`."""
    config = read_config(source)
    _no_dropout(config)
    if config.num_labels != 1:
        raise UserError(f"{source} has {config.num_labels} labels; a reward model has one")
    kind = AutoModelForSequenceClassification
    return _load(kind, source, config, attention, device, divided=divided, frozen=frozen)


def scalar_from_policy(
    source: str | Path,
    seed: int,
    device: torch.device | None = None,
    *,
    attention: str = "sdpa",
    divided: bool = False,
) -> PreTrainedModel:
    """A policy's body with its unembedding replaced by a scalar head drawn from N(0, 1/(d + 1)).

    The head's scale is that of Stiennon et al. 2020 (summarize-from-feedback, reward_model.py).
    """
    config = read_config(source)
    _no_dropout(config)
    config.num_labels = 1
    model = _load(AutoModelForSequenceClassification, source, config, attention, device, new=HEADS, divided=divided)
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise UserError(f"{source}: its classification model ({type(model).__name__}) has no linear `score` head")
    generator = torch.Generator().manual_seed(seed)
    weight = model.score.weight
    draw = torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[1] + 1)
    with torch.no_grad():
        weight.copy_(like(draw, weight))
        if model.score.bias is not None:
            model.score.bias.zero_()
    setattr(model.config, BIAS, 0.0)
    return model


def read_config(source: str | Path):
    """The config of a model folder or hub name; of an adapter's folder without one, that of the model under it."""
    if (Path(source) / CONFIG).is_file() and not (Path(source) / "config.json").is_file():
        source = _base_of(Path(source), read_adapter(Path(source)))
    try:
        return AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source} is no model folder and no model that can be fetched: {reason(error)}") from error


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make the model's layers keep their inputs only while it trains, and compute the rest again in the backward pass.

    Raises UserError for an architecture of transformers that cannot."""
    if not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} cannot checkpoint its layers; leave out gradient_checkpointing")
    # Its old name is gone from version 6 on, the new one is not in all of version 5.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.train()  # transformers checkpoints in training mode only


def _no_dropout(config) -> None:
    for name in (
        "resid_pdrop",
        "hidden_dropout",
        "embd_pdrop",
        "attention_dropout",
        "attn_pdrop",
        "classifier_dropout",
        "hidden_dropout_prob",
    ):
        if getattr(config, name, None) is not None:
            setattr(config, name, 0.0)


def _load(
    kind,
    source: str | Path,
    config,
    attention: str,
    device: torch.device | None,
    *,
    new: tuple[str, ...] = (),
    divided: bool = False,
    frozen: bool = False,
) -> PreTrainedModel:
    """The model on its device, in evaluation mode, with our attention; see `_from_pretrained`, and `load_policy` for
    `divided` and `frozen`."""
    folder, device = Path(source), device or best_device()
    plain = any(folder.glob("*.safetensors")) and not (folder / CONFIG).is_file()
    if divided and several() and plain:
        try:
            model = read_divided(kind, folder, config, attention, device, new, frozen=frozen)
        except FAULTS as error:
            raise UserError(f"cannot load {source}: {reason(error)}") from error
        if model is not None:
            return model
    model = _from_pretrained(kind, source, config, attention, new)
    model.requires_grad_(not frozen).to(device).eval()
    install(model)
    return shard(model) if divided else model


def _from_pretrained(kind, source: str | Path, config, attention: str, new: tuple[str, ...] = ()) -> PreTrainedModel:
    """The model with its weights. Only weights whose name ends with one of `new` may be absent, and start at random."""
    folder = Path(source)
    if (folder / CONFIG).is_file():
        adapter = read_adapter(folder)
        head = tuple(name for name in HEADS if kind is AutoModelForSequenceClassification)
        model = _from_pretrained(kind, _base_of(folder, adapter), config, attention, new=head)
        return merge(put_adapter(model, adapter, folder))
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        pickled = next((path.name for path in folder.glob("*.bin")), None)
        if pickled:
            raise UserError(
                f"{folder} has pickled weights only ({pickled}), which can run code when loaded; convert them with "
                "model.save_pretrained(folder) of transformers, which writes safetensors"
            )
        raise UserError(f"{folder} has no model.safetensors")
    try:
        model, report = kind.from_pretrained(
            str(source),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except FAULTS as error:
        raise UserError(f"cannot load {source}: {reason(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(new))
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} of the weights that its config names, the first is {missing[0]}; "
            f"it is no whole {type(model).__name__}"
        )
    return model


def _base_of(folder: Path, adapter: Adapter) -> str:
    """The model under an adapter: where the adapter says, or beside its folder when the workspace has moved."""
    named = adapter.config["base_model_name_or_path"]
    beside = folder.parent / Path(named).name
    base = str(beside) if not Path(named).is_dir() and beside.is_dir() else named
    card = read_card(folder)
    under = (card.parents.get("model") or card.parents.get("reference")) if card else None
    if under and under != lineage(base):
        raise UserError(f"{folder} is an adapter over {under}, but {base} is {lineage(base)} now")
    return base


def reason(error: Exception) -> str:
    """Why transformers did not load something, in one line."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own (auto_map), which is never run here; take an architecture of transformers"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
