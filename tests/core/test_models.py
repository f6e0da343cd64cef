"""Model folders in and out, log-probabilities and scores, for four architectures."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from preceptor.errors import UserError
from preceptor.models import logprobs as logprobs_module
from preceptor.models.load import BIAS, context_length, load_policy, load_scalar, load_tokenizer, scalar_from_policy
from preceptor.models.logprobs import (
    answer_logprobs,
    answer_mask,
    answer_values,
    check_projection,
    final_scores,
    sequence_logprobs,
    token_scores,
)
from preceptor.models.presets import SIZES, new_model
from preceptor.models.save import count_parameters, lineage, model_hash, read_card, save_model
from preceptor.text.batches import pad_right
from preceptor.types import ModelCard
from tiny_models import ARCHITECTURES, VOCABULARY, make_model, make_tokenizer, save

CARD = ModelCard(name="m", stage="sft", parents={"model": "base@1"}, metrics={"loss": 1.5}, parameters=3)
ROWS = [[5, 9, 30, 31], [7, 8, 40, 41, 42, 43, 44], [6, 50], [9, 9, 9, 60, 61]]
PROMPTS = [2, 1, 1, 3]


def padded():
    ids, lengths = pad_right(ROWS, 1)
    prompts = torch.tensor(PROMPTS)
    return ids, lengths, prompts, answer_mask(prompts, lengths)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


# -- log-probabilities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [False, True])
def test_answer_logprobs_are_those_of_each_row_alone(architecture, tied, temperature):
    model = make_model(architecture, tied=tied)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    ids, _, prompts, mask = padded()
    with torch.no_grad():
        ours = answer_logprobs(model, ids, prompts, mask, temperature)
        for b, (row, start) in enumerate(zip(ROWS, PROMPTS)):
            table = torch.log_softmax(model(torch.tensor([row])).logits[0] / temperature, -1)
            alone = [table[place - 1, row[place]].item() for place in range(start, len(row))]
            assert ours[b, : len(alone)].tolist() == pytest.approx(alone, abs=1e-4)
            assert (ours[b, len(alone) :] == 0).all()


def test_answer_mask():
    _, _, _, mask = padded()
    assert mask.tolist() == [[1, 1, 0, 0, 0, 0], [1] * 6, [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_sequence_logprobs_are_the_loss_of_transformers(architecture):
    model = make_model(architecture)
    blocks = torch.randint(2, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = sequence_logprobs(model, blocks)
        theirs = model(blocks, labels=blocks).loss
    assert ours.shape == (3, 8)
    assert -ours.mean().item() == pytest.approx(theirs.item(), abs=1e-5)


def test_logits_in_pieces_give_the_same_values_and_gradients(monkeypatch):
    ids, _, prompts, mask = padded()
    results = []
    for chunk in (2**22, 3 * VOCABULARY):
        monkeypatch.setattr(logprobs_module, "CHUNK", chunk)
        model = make_model("llama")
        values = answer_logprobs(model, ids, prompts, mask)
        (values * mask).sum().backward()
        results.append((values.detach(), [p.grad for p in model.parameters()]))
    (values, gradients), (other_values, other_gradients) = results
    torch.testing.assert_close(values, other_values)
    for one, other in zip(gradients, other_gradients):
        torch.testing.assert_close(one, other)


def test_an_architecture_that_bends_its_logits_is_refused():
    model = make_model("llama")
    check_projection(model)
    own = model.forward

    def bent(*args, **options):
        out = own(*args, **options)
        out.logits = out.logits * 2
        return out

    model.forward = bent
    with pytest.raises(UserError, match="changes its logits"):
        check_projection(model)


# -- scores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scalar(architecture, tmp_path):
    model = scalar_from_policy(save(tmp_path / "policy", architecture), seed=1)
    setattr(model.config, BIAS, 0.75)
    return model


def test_a_score_depends_on_its_row_alone(scalar):
    alone = torch.stack([final_scores(scalar, torch.tensor([row]), torch.tensor([len(row)]))[0] for row in ROWS])
    ids, lengths, _, _ = padded()
    torch.testing.assert_close(final_scores(scalar, ids, lengths), alone, atol=1e-5, rtol=0)
    wider = torch.nn.functional.pad(ids, (0, 9), value=1)
    torch.testing.assert_close(final_scores(scalar, wider, lengths), alone, atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(final_scores(scalar, ids[order], lengths[order]), alone[order], atol=1e-5, rtol=0)
    other = torch.nn.functional.pad(ids, (0, 3), value=77)  # whatever the padding is
    torch.testing.assert_close(final_scores(scalar, other, lengths), alone, atol=1e-5, rtol=0)
    assert len(set(alone.tolist())) == len(ROWS)


def test_a_value_stands_before_its_token(scalar):
    ids, _, prompts, mask = padded()
    scores, values = token_scores(scalar, ids), answer_values(scalar, ids, prompts, mask)
    for b, (row, start) in enumerate(zip(ROWS, PROMPTS)):
        expected = [scores[b, place - 1].item() for place in range(start, len(row))]
        assert values[b, : len(expected)].tolist() == pytest.approx(expected, abs=1e-6)
        assert (values[b, len(expected) :] == 0).all()


def test_the_bias_is_kept_and_used_and_the_library_gives_the_score_without_it(scalar, tmp_path):
    tokenizer = make_tokenizer()
    scalar.config.pad_token_id = tokenizer.pad_token_id
    folder = save_model(tmp_path / "reward", scalar, tokenizer, CARD)
    assert json.loads((folder / "config.json").read_text())[BIAS] == 0.75
    ids, lengths, _, _ = padded()
    with torch.no_grad():
        ours = final_scores(load_scalar(folder), ids, lengths)
        torch.testing.assert_close(ours, final_scores(scalar, ids, lengths))
        theirs = AutoModelForSequenceClassification.from_pretrained(folder)
        assert theirs.config.num_labels == 1
        for row, score in zip(ROWS, ours):  # one at a time: the library guesses the end from the padding
            assert theirs(torch.tensor([row])).logits.item() == pytest.approx(score.item() - 0.75, abs=1e-5)
        together = theirs(ids, attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long()).logits[:, 0]
        torch.testing.assert_close(together, ours - 0.75, atol=1e-4, rtol=0)


def test_the_head_has_the_scale_of_stiennon_and_follows_the_seed(tmp_path):
    folder = save(tmp_path / "policy", "llama")
    one, same, other = (scalar_from_policy(folder, seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    draws = torch.cat([scalar_from_policy(folder, seed=seed).score.weight.flatten() for seed in range(20)])
    assert draws.std().item() == pytest.approx(33**-0.5, rel=0.1)


def test_the_body_of_a_scalar_model_is_that_of_the_policy(architecture, tmp_path):
    policy = load_policy(save(tmp_path / "policy", architecture))
    body = scalar_from_policy(tmp_path / "policy", seed=1).base_model.state_dict()
    for name, tensor in policy.base_model.state_dict().items():
        assert torch.equal(tensor, body[name]), name


# -- folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_policy_folder_loads_with_nothing_of_ours(architecture, tied, tmp_path):
    model = make_model(architecture, tied=tied)
    folder = save_model(tmp_path / "m", model, make_tokenizer(), CARD)
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.bin"))
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("the red fox")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, model(ids).logits)
    loaded = load_policy(folder)
    assert not loaded.training
    ids, _, prompts, mask = padded()
    with torch.no_grad():
        ours = answer_logprobs(model, ids, prompts, mask)
        torch.testing.assert_close(answer_logprobs(loaded, ids, prompts, mask), ours, atol=1e-5, rtol=0)


def test_weights_in_bf16_are_trained_in_fp32(architecture, tmp_path):
    save(tmp_path / "m", architecture)
    make_model(architecture).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    assert {p.dtype for p in load_policy(tmp_path / "m").parameters()} == {torch.float32}
    assert {p.dtype for p in scalar_from_policy(tmp_path / "m", 0).parameters()} == {torch.float32}
    folder = save_model(tmp_path / "out", load_policy(tmp_path / "m"), make_tokenizer(), CARD)
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(folder).parameters()} == {torch.float32}


def test_dropout_is_off_unless_asked_for(tmp_path):
    folder = save(tmp_path / "m", "gpt2")
    assert {m.p for m in load_policy(folder).modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert 0.2 in {m.p for m in load_policy(folder, dropout=0.2).modules() if isinstance(m, torch.nn.Dropout)}
    assert {m.p for m in scalar_from_policy(folder, 0).modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_the_card_comes_back_and_the_readme_names_the_parents(tmp_path):
    folder = save_model(tmp_path / "m", make_model(), make_tokenizer(), CARD)
    assert read_card(folder) == CARD
    assert "base@1" in (folder / "README.md").read_text()
    assert read_card(save(tmp_path / "other")) is None
    assert lineage(folder) == f"m@{model_hash(folder)[:16]}"
    assert lineage("someone/model") == "someone/model"


def test_the_hash_follows_the_weights(tmp_path):
    one, same, other = (save(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert model_hash(one) == model_hash(same) != model_hash(other)


def test_context_length_is_the_positions_of_the_config(architecture, tmp_path):
    assert context_length(save(tmp_path / "m", architecture, context=77)) == 77


@pytest.mark.parametrize("size", ["tiny", "tiny-large"])
def test_a_preset_is_a_plain_llama_that_gives_back_its_logits(size, tmp_path):
    tokenizer = make_tokenizer()
    model = new_model(size, tokenizer, 64).eval()
    assert model.config.hidden_size == SIZES[size][0]
    folder = save_model(tmp_path / "m", model, tokenizer, CARD)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, model(ids).logits)
    assert count_parameters(model) == count_parameters(load_policy(folder))


def test_the_sizes_of_the_presets_are_what_the_help_says():
    tokenizer = make_tokenizer()
    counts = {size: count_parameters(new_model(size, tokenizer, 64)) for size in SIZES}
    assert 0.2e6 < counts["tiny"] < 0.4e6
    assert 4 < counts["tiny-large"] / counts["tiny"] < 6
    with pytest.raises(UserError, match="choose one of: tiny"):
        new_model("huge", tokenizer, 64)


# -- bad folders ----------------------------------------------------------------------------------------------


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_pickled_weights_are_refused(tmp_path):
    folder = save(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    refused(lambda: load_policy(folder), str(folder), "pickled", "pytorch_model.bin", "save_pretrained")
    refused(lambda: scalar_from_policy(folder, 0), "pickled")


def test_a_folder_without_weights_config_or_tokenizer_is_refused(tmp_path):
    folder = save(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    refused(lambda: load_policy(folder), str(folder), "no model.safetensors")
    bare = tmp_path / "bare"
    bare.mkdir()
    refused(lambda: load_policy(bare), str(bare))
    refused(lambda: load_tokenizer(bare), str(bare), "no tokenizer")
    shutil.copy(folder / "tokenizer_config.json", bare)
    refused(lambda: load_tokenizer(bare), str(bare), "tokenizer")
    make_model().save_pretrained(tmp_path / "untold")
    refused(lambda: load_tokenizer(tmp_path / "untold"), "no tokenizer")


def test_damaged_files_are_refused(tmp_path):
    folder = save(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(lambda: load_policy(folder), str(folder))
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text("{")
    refused(lambda: load_policy(folder), str(folder))
    (folder / "tokenizer.json").write_text("{")
    refused(lambda: load_tokenizer(folder), str(folder))


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    folder = save(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    refused(lambda: load_policy(folder), str(folder))


def test_weights_that_lack_a_layer_are_refused(tmp_path):
    folder = save(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(lambda: load_policy(folder), str(folder), "layers.2")


def test_an_architecture_without_a_score_head_is_refused(tmp_path):
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    refused(lambda: scalar_from_policy(tmp_path / "bert", 0), str(tmp_path / "bert"), "score")


def test_a_classifier_of_three_labels_is_no_reward_model(tmp_path):
    save(tmp_path / "m")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", num_labels=3)
    model.save_pretrained(tmp_path / "three")
    refused(lambda: load_scalar(tmp_path / "three"), "3 labels")


def test_a_policy_is_no_reward_model(tmp_path):
    config = json.loads((save(tmp_path / "m") / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"num_labels": 1, "id2label": {"0": "LABEL_0"}}))
    refused(lambda: load_scalar(tmp_path / "m"), "score")
