"""Packed rows, shared prompts and fast products against each row alone, through transformers' own attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, BloomConfig, MistralConfig, Qwen2Config

from preceptor.models import attention
from preceptor.models.attention import NAME, attend, install, packs, row_layout
from preceptor.models.load import scalar_from_policy
from preceptor.models.logprobs import (
    answer_logprobs,
    answer_mask,
    answer_values,
    final_scores,
    hidden_states,
    shared_scores,
)
from preceptor.text.batches import pad_right
from tiny_models import ARCHITECTURES, VOCABULARY, make_config, make_model, save

LENGTHS = (29, 3, 17, 2, 28, 9)  # several blocks
PROMPTS = (5, 1, 9, 1, 27, 4)


def rows_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def gradient(model):
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


def installed(architecture, kind="policy", folder=None):
    if kind == "scalar":
        model = scalar_from_policy(save(folder, architecture), 1)
    else:
        model = make_model(architecture)
        install(model)
    assert model.config._attn_implementation == NAME
    assert packs(model, 128)
    return model.double()


def alone(model, row):
    """The last hidden states of one row [S, D], through the architecture's own attention."""
    model.set_attn_implementation("sdpa")
    states = hidden_states(model, torch.tensor([row]))[0]
    model.set_attn_implementation(NAME)
    return states


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_answers_and_their_gradients_are_those_of_each_row_alone(architecture):
    rows = rows_of(LENGTHS)
    ids, lengths = pad_right(rows, 1)
    prompts = torch.tensor(PROMPTS)
    mask = answer_mask(prompts, lengths)
    model, twin = installed(architecture), installed(architecture)
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    packed = answer_logprobs(model, ids, prompts, mask)
    (packed * weights).sum().backward()
    slow = torch.zeros_like(mask)
    total = torch.tensor(0.0)
    for b, row in enumerate(rows):
        table = torch.log_softmax(twin.get_output_embeddings()(alone(twin, row)).float(), -1)
        for t, place in enumerate(range(PROMPTS[b], len(row))):
            slow[b, t] = table[place - 1, row[place]].item()
            total = total + table[place - 1, row[place]] * weights[b, t]
    total.backward()
    torch.testing.assert_close(packed.detach(), slow, atol=1e-5, rtol=0)
    assert (gradient(model) - gradient(twin)).abs().max() < 1e-6 * max(1.0, gradient(twin).abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_values_and_scores_are_those_of_each_row_alone(architecture, tmp_path):
    rows = rows_of(LENGTHS)
    ids, lengths = pad_right(rows, 1)
    prompts = torch.tensor(PROMPTS)
    model = installed(architecture, "scalar", tmp_path / "m")
    mask = answer_mask(prompts, lengths)
    with torch.no_grad():
        values, scores = answer_values(model, ids, prompts, mask), final_scores(model, ids, lengths)
        for b, row in enumerate(rows):
            slow = model.score(alone(model, row))[:, 0]
            torch.testing.assert_close(
                values[b, : len(row) - PROMPTS[b]], slow[PROMPTS[b] - 1 : -1], atol=1e-6, rtol=0, check_dtype=False
            )
            assert scores[b].item() == pytest.approx(slow[-1].item(), abs=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_prompt_scores_as_if_every_answer_had_its_own(architecture, tmp_path):
    prompts = rows_of((7, 1, 12), seed=2)
    answers = [rows_of((3, 9, 1, 5), seed=3), rows_of((2,), seed=4), rows_of((6, 4), seed=5)]
    model = installed(architecture, "scalar", tmp_path / "m")
    twin = installed(architecture, "scalar", tmp_path / "m")
    weights = torch.rand(7, generator=torch.Generator().manual_seed(1))
    shared = shared_scores(model, prompts, answers, 1)
    (shared * weights).sum().backward()
    rows = [prompt + answer for prompt, group in zip(prompts, answers) for answer in group]
    slow = torch.stack([twin.score(alone(twin, row))[-1, 0] for row in rows]).float()
    (slow * weights).sum().backward()
    torch.testing.assert_close(shared, slow, atol=1e-6, rtol=0)
    assert (gradient(model) - gradient(twin)).abs().max() < 1e-6 * max(1.0, gradient(twin).abs().max())


def test_who_shares_the_pack_changes_nothing():
    model = installed("llama")
    rows = rows_of(LENGTHS)
    results = []
    for chosen in (range(6), (3, 0, 5), (3,)):
        part = [rows[place] for place in chosen]
        ids, lengths = pad_right(part, 1)
        prompts = torch.tensor([PROMPTS[place] for place in chosen])
        with torch.no_grad():
            found = answer_logprobs(model, ids, prompts, answer_mask(prompts, lengths))
        results.append(found[list(chosen).index(3), 0].item())
    assert results[1:] == pytest.approx(results[:1] * 2, abs=1e-6)


def test_rows_of_one_length_and_a_row_that_needs_no_padding_are_not_packed(monkeypatch):
    model = installed("gpt2")
    monkeypatch.setattr("preceptor.models.logprobs.packed_states", None)  # calling it would fail
    prompts, lengths = torch.tensor([2, 3]), torch.tensor([8, 8])
    assert (
        answer_logprobs(model, torch.ones(2, 8, dtype=torch.long), prompts, answer_mask(prompts, lengths))
        .isfinite()
        .all()
    )


def test_blocks_hold_rows_of_similar_length_and_every_token_once():
    layout = row_layout((100, 4, 90, 3, 50), torch.device("cpu")).rows
    assert layout.shapes == ((2, 112), (1, 64), (2, 16))
    assert sorted(layout.back.tolist()) == sorted((~layout.padding[:, 0]).nonzero()[:, 0].tolist())
    assert layout.to[layout.back].tolist() == list(range(247))


def test_bf16_products_are_attention_in_bf16():
    query, key, value = (torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(s)) for s in range(3))
    lower = [x.bfloat16().requires_grad_() for x in (query, key, value)]
    exact = [x.detach().float().requires_grad_() for x in lower]
    ours = attend(None, *lower, None, scaling=0.3)[0]
    plain = scaled_dot_product_attention(*exact, is_causal=True, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours.float(), plain, atol=0.03, rtol=0.03)
    ours.float().square().sum().backward()
    plain.square().sum().backward()
    for low, high in zip(lower, exact):
        torch.testing.assert_close(low.grad.float(), high.grad, atol=0.15, rtol=0.05)


def test_long_rows_in_bf16_take_fused_attention(monkeypatch):
    monkeypatch.setattr(attention, "SHORT", 8)
    query, key, value = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    ours = attend(None, query, key, value, None, scaling=0.3)[0]
    assert torch.equal(ours, scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3).transpose(1, 2))


def test_attention_that_cannot_be_replaced_stays(tmp_path):
    shared = {"vocab_size": VOCABULARY, "hidden_size": 32, "bos_token_id": None, "eos_token_id": 0}
    bloom = AutoModelForCausalLM.from_config(BloomConfig(**shared, n_layer=2, n_head=4)).eval()
    before = bloom.config._attn_implementation
    install(bloom)
    assert bloom.config._attn_implementation == before
    assert not packs(bloom, 4)


def test_a_window_is_packed_only_where_it_does_not_matter():
    options = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    options |= {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 8}
    for config in (MistralConfig(**options), Qwen2Config(**options, use_sliding_window=True, max_window_layers=0)):
        model = AutoModelForCausalLM.from_config(config).eval()
        install(model)
        assert packs(model, 8)
        assert not packs(model, 9)
    free = AutoModelForCausalLM.from_config(make_config("qwen2")).eval()
    install(free)
    assert packs(free, 100_000)


def test_the_fused_activation_is_the_written_out_one():
    model = make_model("gpt2")
    ids = torch.tensor([[5, 6, 7]])
    own = model(ids).logits
    install(model)
    assert {type(layer.mlp.act) for layer in model.transformer.h} == {torch.nn.GELU}
    torch.testing.assert_close(model(ids).logits, own, atol=1e-6, rtol=1e-5)


def test_a_model_that_drops_at_random_gets_its_rows_padded():
    model = AutoModelForCausalLM.from_config(make_config("gpt2")).eval()  # its config has dropout
    install(model)
    assert not packs(model.train(), 8)
    assert packs(model.eval(), 8)
