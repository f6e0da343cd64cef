"""LoRA: the arithmetic by hand, the folders against peft's own, and four roles over one base."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from preceptor.config import SftConfig
from preceptor.errors import UserError
from preceptor.models.adapters import (
    Lora,
    LoraLinear,
    adapt,
    adapters,
    load_own_state,
    lora_of,
    merge,
    own_state,
    put_adapter,
    read_adapter,
    take_adapter,
    twin,
)
from preceptor.models.load import load_policy, load_scalar, scalar_from_policy
from tiny_models import ARCHITECTURES, make_model, save

LORA = Lora(rank=3, alpha=6.0)
IDS = torch.tensor([[9, 30, 31, 200, 5, 77], [8, 8, 120, 4, 4, 2]])


def stir(model, seed=0):
    """Adapters as if they had been trained: B is no longer 0."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapters(model):
        with torch.no_grad():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def test_a_layer_by_hand():
    base = nn.Linear(2, 2)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        base.bias.copy_(torch.tensor([10.0, 20.0]))
    layer = LoraLinear(base, Lora(rank=1, alpha=3.0))
    x = torch.tensor([[1.0, 1.0]])
    assert layer(x).tolist() == [[13.0, 27.0]]  # B is 0
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[1.0, 2.0]]))  # A x = 3
        layer.lora_B.copy_(torch.tensor([[1.0], [-1.0]]))  # 3 / 1 * B A x = (9, -9)
    assert layer(x).tolist() == [[22.0, 18.0]]
    assert layer.merged()(x).tolist() == [[22.0, 18.0]]
    assert base.weight.tolist() == [[4.0, 8.0], [0.0, -2.0]]


def test_the_transposed_layer_of_gpt2_by_hand():
    base = Conv1D(1, 2)  # one output, two inputs: weight [2, 1]
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0], [2.0]]))
    layer = LoraLinear(base, Lora(rank=1, alpha=1.0))
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[3.0, 5.0]]))
        layer.lora_B.copy_(torch.tensor([[10.0]]))
    x = torch.tensor([[1.0, 1.0]])
    assert layer(x).tolist() == [[83.0]]
    assert layer.merged()(x).tolist() == [[83.0]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_adapter_changes_nothing_and_only_it_is_trained(architecture):
    model = make_model(architecture)
    before = logits(model)
    adapt(model, LORA, seed=1)
    assert torch.equal(logits(model), before)
    trained = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    linear = [m for m in make_model(architecture).base_model.modules() if isinstance(m, (nn.Linear, Conv1D))]
    assert len(list(adapters(model))) == len(linear) > 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merging_gives_the_same_model(architecture):
    model = stir(adapt(make_model(architecture), LORA, seed=1))
    before = logits(model)
    assert (before - logits(make_model(architecture))).abs().max() > 0.05
    merge(model)
    assert not list(adapters(model))
    torch.testing.assert_close(logits(model), before, atol=2e-5, rtol=0)
    assert model.state_dict().keys() == make_model(architecture).state_dict().keys()


def test_a_twin_has_the_very_same_weights():
    model = make_model("llama")
    other = adapt(twin(model), LORA, seed=1)
    mine = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in other.parameters() if not p.requires_grad} == mine
    stir(other)
    assert torch.equal(logits(model), logits(make_model("llama")))
    assert not torch.equal(logits(other), logits(model))


def test_settings():
    assert lora_of(SftConfig()) is None
    assert lora_of(SftConfig(lora_rank=8)) == Lora(8, 16.0, ("all-linear",))
    assert lora_of(SftConfig(lora_rank=8, lora_alpha=4, lora_targets="q_proj, v_proj")) == Lora(
        8, 4, ("q_proj", "v_proj")
    )
    for wrong, message in (
        ({"lora_rank": 0}, "lora_rank is 0"),
        ({"lora_rank": 4, "lora_alpha": -1.0}, "lora_alpha is -1"),
        ({"lora_alpha": 4.0}, "lora_alpha is set without lora_rank"),
        ({"lora_merge": False}, "lora_merge is set without lora_rank"),
    ):
        with pytest.raises(UserError, match=message):
            SftConfig(**wrong)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("preceptor.models.adapters.several", lambda: True)
    assert lora_of(SftConfig()) is None
    with pytest.raises(UserError, match="works in one process"):
        lora_of(SftConfig(lora_rank=8))


def test_targets_by_name():
    model = adapt(make_model("llama"), Lora(2, 4.0, ("q_proj", "mlp.up_proj")), seed=0)
    assert {name.rsplit(".", 1)[-1] for name, _ in adapters(model)} == {"q_proj", "up_proj"}
    with pytest.raises(UserError, match=r"c_attn: LlamaForCausalLM has no such layer; it has .*q_proj"):
        adapt(make_model("llama"), Lora(2, 4.0, ("c_attn",)), seed=0)


def test_a_checkpoint_keeps_the_adapter_and_nothing_else():
    model = stir(adapt(make_model("gpt2"), LORA, seed=1))
    state = own_state(model)
    assert all("lora_" in name for name in state)
    other = adapt(make_model("gpt2"), LORA, seed=2)
    load_own_state(other, state)
    assert torch.equal(logits(other), logits(model))


# -- folders of peft --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_reads_our_folder(architecture, tmp_path):
    peft = pytest.importorskip("peft")
    base = save(tmp_path / "base", architecture)
    model = stir(adapt(load_policy(base), LORA, seed=1))
    take_adapter(model, LORA, str(base)).write(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "a")
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "a")), logits(model), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_we_read_a_folder_of_peft(architecture, tmp_path):
    peft = pytest.importorskip("peft")
    base = save(tmp_path / "base", architecture)
    options = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path / "a")
    ours = load_policy(tmp_path / "a")  # merged
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), atol=2e-5, rtol=0)
    kept = put_adapter(load_policy(base), read_adapter(tmp_path / "a"), tmp_path / "a")
    torch.testing.assert_close(logits(kept), logits(theirs), atol=2e-5, rtol=0)


def test_peft_reads_a_reward_model_of_ours_with_its_head(tmp_path):
    peft = pytest.importorskip("peft")
    base = save(tmp_path / "base")
    model = stir(adapt(scalar_from_policy(base, 5), LORA, seed=1))
    take_adapter(model, LORA, str(base)).write(tmp_path / "a")
    empty = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    theirs = peft.PeftModel.from_pretrained(empty, tmp_path / "a").eval()
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=0)
    model.config.save_pretrained(tmp_path / "a")
    torch.testing.assert_close(logits(load_scalar(tmp_path / "a")), logits(model), atol=2e-5, rtol=0)


def test_what_is_no_plain_lora_is_refused(tmp_path):
    base = save(tmp_path / "base")
    model = adapt(load_policy(base), LORA, seed=1)
    folder = tmp_path / "a"
    take_adapter(model, LORA, str(base)).write(folder)
    good = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"use_dora": True}, "use_dora True"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"target_modules": ".*_proj"}, "targets"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=message):
            read_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps(good))
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"does not fit LlamaForCausalLM: .*lora_A"):
        load_policy(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot read the adapter"):
        load_policy(folder)
