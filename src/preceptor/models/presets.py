"""Sizes for models made from scratch. Plain Llama: every Hugging Face tool reads them."""

from transformers import LlamaConfig, LlamaForCausalLM

from preceptor.errors import UserError

# name -> width, layers, heads, width of the MLP. Learned in two studies of tiny models: rope theta 100 for short
# contexts, initial standard deviation .04, tied embeddings, two layers rather than three at this budget.
SIZES = {
    "tiny": (96, 2, 4, 256),
    "tiny-large": (208, 2, 8, 552),
    "small": (256, 6, 4, 688),
    "medium": (512, 8, 8, 1376),
}


def new_model(size: str, tokenizer, context: int) -> LlamaForCausalLM:
    """A randomly initialised model; the caller seeds torch. `context` sets the rotary base, not a limit."""
    ids = {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return LlamaForCausalLM(new_config(size, len(tokenizer), context, **ids))


def new_config(size: str, vocabulary: int, context: int, *, eos: int, pad: int) -> LlamaConfig:
    """The config of `new_model`. Raises UserError for an unknown size."""
    if size not in SIZES:
        raise UserError(f"no size {size!r}; choose one of: {', '.join(SIZES)}")
    width, layers, heads, mlp = SIZES[size]
    tiny = width < 256
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=max(2048, context),
        rope_parameters={"rope_type": "default", "rope_theta": 100.0 if tiny else 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.04 if tiny else 0.02,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
