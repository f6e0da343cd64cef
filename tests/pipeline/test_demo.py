"""The demo end to end, every size made small: the files it leaves, their keys, and that it goes on where it stopped."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from preceptor.errors import UserError
from preceptor.evaluation.judge import Endpoint, PairJudge
from preceptor.pipeline.demo import demo
from preceptor.pipeline.evaluate import Drawing, comparison_lines, evaluate_against
from preceptor.pipeline.measured import strengths, win_rates
from preceptor.pipeline.overoptimise import over_optimisation
from preceptor.pipeline.recipe import Recipe
from preceptor.pipeline.stored import read_stored
from preceptor.pipeline.workspace import export_model, status_of, write_workspace_report
from preceptor.store import Workspace
from preceptor.types import Prompt

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


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """The demo's models as a workspace of somebody's own, with prompts of test users."""
    root = tmp_path_factory.mktemp("measured") / "own"
    shutil.copytree(finished, root)
    (root / "demo.json").unlink()
    workspace = Workspace(root)
    given = list(workspace.store.prompts(split="valid"))[:12]
    cases = ("rewrite", "open qa")
    workspace.store.add_prompts(
        Prompt.of(prompt.text, user_id=f"test {number}", split="test", use_case=cases[number % 2])
        for number, prompt in enumerate(given)
    )
    return workspace


SHORT = Drawing(prompts=12, samples=4, max_new_tokens=12)


def test_a_model_against_another_by_a_reward_model(measured):
    found = evaluate_against(measured, "ppo-ptx-small", "sft-small", "reward-2", SHORT, Console(quiet=True))
    assert (found.win.n, found.win.clusters) == (12 * 16, 12)
    assert [name for name, _ in found.slices] == ["use case: open qa", "use case: rewrite"]
    assert sum(win.n for _, win in found.slices) == 12 * 16
    assert (found.users, found.training_users) == (12, 0)
    assert comparison_lines(found)[2] == "  All 12 users are held out: none has a prompt in the training split."
    assert found.position is None
    assert "at equal length" in comparison_lines(found)[1]
    page = write_workspace_report(measured).read_text()
    assert "ppo-ptx-small" in page
    assert "All 12 users are held out: none has a prompt in the training split." in page


def test_training_users_are_a_slice_of_their_own(measured):
    pair = ("ppo-ptx-small", "sft-small", "reward-2")
    store = measured.store
    store.add_prompts([Prompt.of(f"seen {n}", user_id=f"test {n}", split="train") for n in range(6)])
    mixed = evaluate_against(measured, *pair, SHORT, Console(quiet=True))
    assert (mixed.users, mixed.training_users) == (12, 6)
    assert [name for name, _ in mixed.slices if "users" in name] == ["users: held-out users", "users: training users"]
    seen = evaluate_against(measured, *pair, Drawing(prompts=4, split="train", max_new_tokens=12), Console(quiet=True))
    assert seen.users == seen.training_users > 0
    rows = [row for row in win_rates(read_stored(measured)) if (row.model, row.baseline) == pair[:2]]
    assert [row.win for row in rows if not row.cohort] == [mixed.win]
    # Two pairs share SFT, so the reward model puts all three models on one scale.
    evaluate_against(measured, "over-optimised", *pair[1:], SHORT, Console(quiet=True))
    assert {one.model for one in strengths(read_stored(measured), "sft-small")} == {*pair[:2], "over-optimised"}
    assert "stands highest of 3 models" in write_workspace_report(measured).read_text()
    assert seen.win in [row.win for row in rows if row.cohort == "users: training users"]


def test_the_prompted_baseline_has_the_prefix_that_the_reward_model_likes_best(measured, tmp_path):
    with open(tmp_path / "said.txt", "w+") as said:
        console = Console(file=said, width=200)
        found = evaluate_against(
            measured, "sft-small", "base-small", "reward-2", SHORT, console, few_shot_judge="reward-2"
        )
        said.seek(0)
        text = said.read()
    assert found.baseline == "base-small, prompted"
    assert "can be told from chance" in text
    assert "few-shot prefix: the best of 4 by reward-2 on validation (" in text


def test_a_judge_model_that_goes_by_the_place_gives_no_win(measured):
    """It always says A: every pair contradicts itself when swapped, so there is no win rate at all, and it says why."""

    class First(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": server.verdict()}}]}).encode())

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), First)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        judge = PairJudge(endpoint=Endpoint(url=url, model="m", timeout=600.0), workers=1)
        server.verdict = lambda: "Verdict: A"
        with pytest.raises(UserError, match=r"judge model m gave no verdict: \{'contradiction': 48\}"):
            evaluate_against(measured, "ppo-ptx-small", "sft-small", judge, SHORT, Console(quiet=True))
        # One pair in four gets rubbish, one a refusal, two are ties: only the ties count.
        replies = iter(["rubbish", "I cannot help with that.", *["Verdict: tie"] * 4] * 12)
        server.verdict = lambda: next(replies)
        found = evaluate_against(measured, "ppo-ptx-small", "sft-small", judge, SHORT, Console(quiet=True))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert found.failures == {"rubbish": 12, "refusal": 12}
    assert (found.win.value, found.win.n) == (0.5, 24)
    assert found.position.value == 0.5
    assert any(
        "24 pairs have no verdict and count for nobody: 12 refusal, 12 rubbish" in x for x in comparison_lines(found)
    )
    assert "24 pairs have no verdict of judge model m" in write_workspace_report(measured).read_text()


def test_proxy_against_a_stand_in_over_models(measured):
    models = ["ppo-ptx-small", "over-optimised"]
    found = over_optimisation(measured, models, "sft-small", "reward-2", ["reward-1"], SHORT)
    assert [point["model"] for point in found["points"]] == ["sft-small", *models]
    assert found["points"][0]["kl"] == pytest.approx(0, abs=1e-3)
    assert found["points"][0]["proxy"]["n"] == 48
    assert [row["n"] for row in found["best_of_n"]] == [1, 2, 4]
    assert found["best_of_n"][0]["proxy"]["value"] == pytest.approx(found["points"][0]["proxy"]["value"])
    proxies = [row["proxy"]["value"] for row in found["best_of_n"]]
    assert proxies == sorted(proxies)
    page = write_workspace_report(measured).read_text()
    assert "There is no gold here: reward-1 stands in for it" in page
    with pytest.raises(UserError, match="is the proxy itself"):
        over_optimisation(measured, models, "sft-small", "reward-2", ["reward-2"], SHORT)
    with pytest.raises(UserError, match="several drawn answers"):
        over_optimisation(measured, models, "sft-small", "reward-2", ["reward-1"], Drawing(temperature=0.0))
