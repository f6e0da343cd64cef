"""The demo end to end, every size made small: the files it leaves, their keys, and that it goes on where it stopped."""

import json

import pytest
from rich.console import Console

from preceptor.errors import UserError
from preceptor.pipeline.demo import demo
from preceptor.pipeline.recipe import Recipe
from preceptor.pipeline.workspace import export_model, status_of, write_workspace_report
from preceptor.store import Workspace

SMALL = Recipe(
    seed=5,
    web_tokens=60_000,
    pretrain_steps=30,
    demonstrations=64,
    sft_epochs=1,
    round_1=48,
    round_2=64,
    overlap=12,
    first_ppo_steps=1,
    ppo_steps=2,
    ppo_batch=32,
    over_steps=2,
    over_every=1,
    test_prompts=24,
    samples=2,
    curve_prompts=12,
    best_prompts=6,
    prefix_prompts=8,
    prefixes=2,
    answer_tokens=16,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    with open(root.with_suffix(".txt"), "w") as said:
        demo(root, SMALL, Console(file=said, width=120))
    return root


def test_results_have_the_keys_that_scripts_rely_on(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["seed"] == 5
    assert results["seconds"] > 0
    assert 100 < results["peak_rss_mib"] < 4096
    expected = {"base-small", "base-large", "base-small-prompted", "base-large-prompted", "sft-small", "ppo-small"}
    assert expected | {"ppo-ptx-small"} <= set(results["models"])
    assert results["models"]["base-large"]["parameters"] >= 4 * results["models"]["base-small"]["parameters"]
    for rate in results["win_rates"]:
        assert 0 <= rate["low"] <= rate["win"] <= rate["high"] <= 1
        assert rate["n"] >= SMALL.test_prompts
    first = results["win_rates"][0]
    assert (first["model"], first["baseline"], first["judge"]) == ("ppo-ptx-small", "sft-small", "gold")
    judges = {rate["judge"] for rate in results["win_rates"]}
    assert judges == {"gold", "held-out labelers"}
    assert set(results["pretraining_loss"]) >= {"base-small", "base-large", "sft-small", "ppo-small", "ppo-ptx-small"}
    assert results["reward_model"]["n"] > 0
    assert 0 < results["agreement"]["pairwise"] < 1
    assert set(results["verdicts"].values()) <= {"shown", "not shown"}


def test_the_report_is_one_file_that_names_the_models(finished):
    page = (finished / "report.html").read_text()
    assert "PPO-ptx" in page
    assert "style=" not in page


def test_a_simulated_labeler_never_trains_on_a_held_out_user(finished):
    store = Workspace(finished).store
    users = {split: {prompt.user_id for prompt in store.prompts(split=split)} for split in ("train", "valid")}
    assert users["train"]
    assert users["valid"]
    assert not users["train"] & users["valid"]
    assert not list(store.prompts(split="test"))  # test prompts are drawn for measuring only
    cohorts = {labeler.id: labeler.cohort for labeler in store.labelers()}
    assert {cohorts[ranking.labeler_id] for ranking, _ in store.rankings(split="train")} == {"training"}


def test_started_again_it_repeats_no_training(finished, tmp_path):
    before = (finished / "models" / "ppo-ptx-small" / "model.safetensors").read_bytes()
    results = json.loads((finished / "results.json").read_text())
    with open(tmp_path / "again.txt", "w") as said:
        demo(finished, SMALL, Console(file=said, width=120))
    assert (finished / "models" / "ppo-ptx-small" / "model.safetensors").read_bytes() == before
    again = json.loads((finished / "results.json").read_text())
    for name in ("win_rates", "pretraining_loss", "reward_model", "agreement", "verdicts", "gold"):
        assert again[name] == results[name], name


def test_a_demo_folder_with_another_seed_is_refused(finished):
    with pytest.raises(UserError, match="seed 5"):
        demo(finished, Recipe(seed=6), Console(quiet=True))


def test_status_report_and_export_of_the_demo(finished, tmp_path):
    workspace = Workspace(finished)
    found = status_of(workspace)
    assert found["counts"]["demonstrations"] == SMALL.demonstrations
    assert found["models"]["ppo-ptx-small"] == "ppo-ptx"
    assert write_workspace_report(workspace).name == "report.html"
    folder = export_model(workspace, "ppo-ptx-small", tmp_path / "out")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "User: Hi.\nAssistant:"
    assert model.config.vocab_size == len(tokenizer)
    with pytest.raises(UserError, match="exists"):
        export_model(workspace, "ppo-ptx-small", tmp_path / "out")
