"""What a plan needs to know of a model: exact parameter counts from its config, on the meta device (no weights)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preceptor.errors import UserError

# Brown et al. 2020, table 2.1: layers, width, heads. GPT-3 XL's 24 heads of 128 do not make its width of 2048; 16 do.
# InstructGPT's "6B" is GPT-3's 6.7B. Half of GPT-3's layers attend in bands; these attend densely.
PAPER = {"1.3B": (24, 2048, 16), "6B": (32, 4096, 32), "175B": (96, 12288, 96)}
PAPER_VOCABULARY, PAPER_CONTEXT = 50257, 2048
OWN = ("tiny", "tiny-large", "small", "medium")
PRESETS = (*PAPER, *OWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model's sizes. Counts are of numbers, not bytes."""

    name: str
    architecture: str
    parameters: int
    scalar_parameters: int  # of the reward or value model made from it
    root_parameters: int  # outside the layers: embeddings, last norm, head
    layer_parameters: int  # of one layer
    layer_matrices: int  # parameters of one layer's matrices
    layer_edges: int  # inputs + outputs of one layer's matrices, for adapters
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_width

    @property
    def matrices(self) -> int:
        """Parameters that a token is multiplied with in the body: all layers' matrices."""
        return self.layers * self.layer_matrices

    @property
    def head(self) -> int:
        """Parameters of the unembedding, its own or the embedding's."""
        return self.width * self.vocabulary

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preset_config(name: str):
    """The config of a preset: the paper's sizes as GPT-2, whose layers they have; ours as `preceptor pretrain`."""
    if name in PAPER:
        from transformers import GPT2Config

        layers, width, heads = PAPER[name]
        return GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=heads,
            vocab_size=PAPER_VOCABULARY,
            n_positions=PAPER_CONTEXT,
            attn_pdrop=0.0,
        )
    if name in OWN:
        from preceptor.config import PretrainConfig
        from preceptor.models.presets import new_config

        defaults = PretrainConfig()
        return new_config(name, defaults.vocabulary, defaults.context, eos=0, pad=1)
    raise UserError(f"no preset {name!r}; choose one of {', '.join(PRESETS)}, or name a model with --model")


def read_config(source: str | Path):
    """The config of a model folder, of a config.json, or of a hub name. No weights are read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(source), trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        from preceptor.models.load import reason

        message = f"{source} is no model folder, no config.json and no model that can be fetched: {reason(error)}"
        raise UserError(message) from error


def measure_shape(config, name: str) -> Shape:
    """Count the parameters of the models that transformers makes of a config: exact, for whatever architecture.

    Raises UserError for a config without a causal language model or without a scalar model.
    """
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    scalar_config = copy.deepcopy(config)
    scalar_config.num_labels = 1
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            scalar = AutoModelForSequenceClassification.from_config(scalar_config)
    except ValueError as error:
        raise UserError(f"{name}: transformers makes no model of this config: {str(error).splitlines()[0]}") from error
    layers = layers_of(model, config.num_hidden_layers)
    largest = max(layers, key=_count)
    inside = sum(_count(layer) for layer in layers)
    matrices = [p for p in largest.parameters() if p.ndim == 2]
    heads = config.num_attention_heads
    return Shape(
        name=name,
        architecture=type(model).__name__,
        parameters=_count(model),
        scalar_parameters=_count(scalar),
        root_parameters=_count(model) - inside,
        layer_parameters=_count(largest),
        layer_matrices=sum(p.numel() for p in matrices),
        layer_edges=sum(sum(p.shape) for p in matrices),
        layers=len(layers),
        width=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        context=getattr(config, "max_position_embeddings", None) or 0,
    )


def layers_of(model, count: int):
    """The list of a model's `count` layers: what is gathered, and checkpointed, as a unit."""
    from torch.nn import ModuleList

    lists = [m for m in model.modules() if isinstance(m, ModuleList) and len(m) == count]
    if not lists:
        raise UserError(f"{type(model).__name__} keeps its {count} layers in no list; preceptor cannot plan for it")
    return max(lists, key=_count)


def _count(module) -> int:
    return sum(p.numel() for p in module.parameters())
