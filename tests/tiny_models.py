"""Tiny models and tokenizers of four architectures, made in the test."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from preceptor.text.tokenizer import train_tokenizer

VOCABULARY = 300
ARCHITECTURES = ("llama", "gpt2", "gpt-neox", "qwen2")

WORDS = [
    "the",
    "red",
    "fox",
    "sees",
    "a",
    "blue",
    "whale",
    "and",
    "the",
    "green",
    "bird",
    "sings",
    "to",
    "two",
    "old",
    "friends",
    "near",
    "our",
    "river",
    "house",
]


def sentences(count: int = 60) -> list[str]:
    """Text with a few words, always the same."""
    return [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(12)) + "." for i in range(count)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(sentences(), VOCABULARY)


def make_config(architecture: str, *, tied: bool = False, context: int = 128):
    shared = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    rope = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
    }
    if architecture == "llama":
        return LlamaConfig(**shared, **rope, num_key_value_heads=2)
    if architecture == "qwen2":
        return Qwen2Config(**shared, **rope, num_key_value_heads=2)
    if architecture == "gpt-neox":
        return GPTNeoXConfig(**shared, **rope)
    return GPT2Config(
        **shared, n_embd=32, n_layer=2, n_head=4, n_positions=context, tie_word_embeddings=tied, initializer_range=0.2
    )


def make_model(architecture: str = "llama", *, seed: int = 0, **options):
    """A random model whose distributions are far from uniform, in evaluation mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(make_config(architecture, **options)).eval()


def save(folder, architecture: str = "llama", tokenizer=None, **options):
    """A model folder with its tokenizer, as a user would bring it."""
    make_model(architecture, **options).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder
