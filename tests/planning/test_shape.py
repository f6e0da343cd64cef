"""Counts against transformers' own models, and activations against what autograd keeps in the real run."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from preceptor.errors import UserError
from preceptor.models.attention import SHORT, fuse_activations
from preceptor.models.logprobs import CHUNK
from preceptor.planning import memory
from preceptor.planning.activations import measure_activations, narrow
from preceptor.planning.shape import layers_of, measure_shape, preset_config, read_config
from tiny_models import ARCHITECTURES, make_config, make_model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_are_those_of_the_real_model(architecture, tied):
    config = make_config(architecture, tied=tied)
    model = make_model(architecture, tied=tied)
    shape = measure_shape(config, "x")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    config.num_labels = 1
    scalar = AutoModelForSequenceClassification.from_config(config)
    assert shape.scalar_parameters == sum(p.numel() for p in scalar.parameters())
    layer = layers_of(model, 2)[0]
    assert shape.layer_parameters == sum(p.numel() for p in layer.parameters())
    assert shape.root_parameters == shape.parameters - 2 * shape.layer_parameters
    inner = 4 * 32 if architecture == "gpt2" else 48
    kv = 16 if architecture in ("llama", "qwen2") else 32
    mlp = (3 if architecture in ("llama", "qwen2") else 2) * 32 * inner
    assert shape.layer_matrices == 2 * 32 * 32 + 2 * 32 * kv + mlp
    assert (shape.heads, shape.kv_heads, shape.head_width) == (4, kv // 8, 8)


def test_the_paper_s_sizes_by_hand():
    """GPT-3 175B: 96 layers of 12 d^2 + 13 d, embeddings (50257 + 2048) d, a last norm of 2 d, with d = 12288."""
    d = 12288
    shape = measure_shape(preset_config("175B"), "175B")
    assert shape.parameters == 96 * (12 * d * d + 13 * d) + (50257 + 2048) * d + 2 * d == 174_604_259_328
    assert shape.scalar_parameters == shape.parameters + d
    assert shape.layer_matrices == 12 * d * d


def test_presets_of_ours_are_what_pretrain_makes():
    from preceptor.config import PretrainConfig
    from preceptor.models.presets import new_model

    class Tokenizer:
        eos_token_id, pad_token_id = 0, 1

        def __len__(self):
            return PretrainConfig().vocabulary

    model = new_model("tiny", Tokenizer(), PretrainConfig().context)
    assert measure_shape(preset_config("tiny"), "tiny").parameters == sum(p.numel() for p in model.parameters())


def kept_bytes(model, rows: int, length: int) -> int:
    """What autograd keeps between forward and backward of the body: every storage once, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.base_model(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
        total = hidden.last_hidden_state.sum()
    assert total.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_what_autograd_keeps(architecture):
    config = make_config(architecture)
    config.num_hidden_layers = 4
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * 4
    found = measure_activations(config, precision="fp32")
    assert narrow(config, 0.0)[1] > 1, "the measured layers are narrower than the model's"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    fuse_activations(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows, length = 3, 96
    predicted = rows * length * (4 * found.per_layer + found.base)
    assert kept_bytes(model, rows, length) == pytest.approx(predicted, rel=0.1)


def test_dropout_keeps_its_masks():
    config = preset_config("1.3B")
    still, dropped = (measure_activations(config, precision="fp32", dropout=p) for p in (0.0, 0.2))
    assert dropped.per_layer > still.per_layer


def test_bf16_keeps_less():
    half, full = (measure_activations(make_config("llama"), precision=kind) for kind in ("bf16", "fp32"))
    assert half.per_layer < full.per_layer


def test_constants_of_the_trainer():
    from preceptor.training.reward import SCORED

    assert (memory.LOGIT_CHUNK, memory.SCORED, memory.SHORT) == (CHUNK, SCORED, SHORT)


def test_what_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no preset '2B'"):
        preset_config("2B")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no model folder"):
        read_config(tmp_path)
    make_config("llama").save_pretrained(tmp_path)
    assert measure_shape(read_config(tmp_path), "x").parameters > 0
    assert measure_shape(read_config(tmp_path / "config.json"), "x").parameters > 0
