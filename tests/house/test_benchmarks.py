"""The benchmark's parts work, at toy sizes and without any claim about time."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "ppo_vs_trl_full",
    "ppo_vs_trl_ragged",
    "rm_k9_vs_trl",
    "rm_k4_vs_trl",
    "sft_vs_trl",
    "generate_vs_transformers",
    "sft_fraction_of_matmul_peak",
    "decode_fraction_of_bandwidth",
    "reward_curve_difference",
    "ppo_memory_vs_trl",
    "ppo_lora_memory_vs_trl",
}


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from curve import write_curve
    from material import SIZES, write_material

    folder = tmp_path_factory.mktemp("material")
    write_material(folder, SIZES["toy"])
    write_curve(folder, SIZES["toy"])
    sys.path.remove(str(ROOT / "benchmarks"))
    return folder


def test_both_sides_read_the_same_work(toy):
    from material import SIZES, read_sizes, read_tokens

    sizes, tokens = read_sizes(toy), read_tokens(toy)
    assert sizes == SIZES["toy"]
    assert [len(step) for step in tokens["sft"]] == [sizes.sft_batch] * sizes.steps
    for k in (9, 4):
        for step in tokens[f"rankings_{k}"]:
            assert sum(k * (k - 1) // 2 for _ in step) == sizes.comparisons
            assert all(len(ranking["answers"]) == k for ranking in step)


def test_a_ranking_becomes_all_its_pairs():
    from material import pairs_of

    pairs = pairs_of({"prompt": [7], "answers": [[1], [2], [3]]})
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [
        ([7, 1], [7, 2]),
        ([7, 1], [7, 3]),
        ([7, 2], [7, 3]),
    ]


def test_expected_length_is_a_cut_geometric_mean():
    from material import expected_length

    assert expected_length(0.5, 3) == pytest.approx(0.5 * 1 + 0.25 * 2 + 0.25 * 3)
    assert expected_length(1e-9, 48) == pytest.approx(48)


def test_the_weights_themselves_make_answers_end(toy):
    """The ragged model's answers have half the limit on average; the full model's never end before it."""
    from material import EOS, PAD

    from preceptor.models.load import load_policy
    from preceptor.rollout.engine import generate
    from preceptor.types import Sampling

    prompts = [[2 + i % 100, 3 + i % 90] for i in range(300)]
    sampling = Sampling(temperature=0.7, max_new_tokens=8)
    for name, low, high in (("ragged", 3.2, 4.8), ("full", 8, 8)):
        model = load_policy(toy / name)
        answers = generate(model, prompts, sampling, stop=frozenset([EOS]), pad=PAD)
        mean = sum(len(group[0].answer_tokens) for group in answers) / len(answers)
        assert low <= mean <= high, name


def test_flop_of_training_are_those_that_torch_counts(toy):
    from ours import training_flop

    from preceptor.models.load import load_policy
    from preceptor.training.data import Example

    model = load_policy(toy / "full")
    example = Example(list(range(2, 22)), list(range(30, 42)))
    with FlopCounterMode(display=False) as counter:
        hidden = model.base_model(input_ids=torch.tensor([example.tokens]), use_cache=False).last_hidden_state
        model.lm_head(hidden[:, : len(example.answer)])
    # torch counts attention as if every token saw every other; causal attention needs (n + 1) / 2n of that.
    n, width = len(example.tokens), model.config.n_embd
    dense, causal = 4 * model.config.n_layer * width * n * n, 2 * model.config.n_layer * width * n * (n + 1)
    counted = counter.get_total_flops()
    whole = counted if _counts_attention(counter) else counted + dense
    assert training_flop(model, [example]) == pytest.approx(3 * (whole - dense + causal))


def _counts_attention(counter) -> bool:
    return any("attention" in str(op) or "bmm" in str(op) for op in counter.get_flop_counts()["Global"])


def test_a_worker_waits_for_its_turn_and_keeps_other_words_off_its_line():
    code = """
import sys; sys.path.insert(0, "benchmarks"); sys.dont_write_bytecode = True
from turns import Finished, Turns
turns = Turns()
print("noise")
try:
    turns.ready(note=1)
    while True:
        turns.done(work=2)
except Finished:
    print("noise")
"""
    done = subprocess.run([sys.executable, "-c", code], input="step\nstep\n", capture_output=True, text=True, cwd=ROOT)
    first, *steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["ready"], first["note"]) == (True, 1)
    assert [step["work"] for step in steps] == [2, 2]
    assert all(step["seconds"] >= 0 and step["peak_mib"] > 0 for step in steps)
    assert done.stderr.count("noise") == 2


def one_step(script: str, task: str, folder: Path, python: Path | str = sys.executable) -> dict:
    """What a worker reports of its first step, in fp32."""
    done = subprocess.run(
        [str(python), str(ROOT / "benchmarks" / script), task, str(folder), "fp32"],
        input="step\n",
        capture_output=True,
        text=True,
        env={
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(folder),
        },
    )
    assert len(done.stdout.splitlines()) == 2, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[1])


def report(seconds: float, **more) -> dict:
    base = {"seconds": seconds, "work": 36, "peak_mib": 100.0, "sequences": 9, "positions": 900, "decode_steps": 0}
    return base | more


def outcome(ours: list[float], peer: list[float], losses=(0.7, 0.7)) -> dict:
    sides = {
        name: {"precision": "bf16", "loaded_mib": 50.0, "reports": [report(s) for s in seconds]}
        for name, seconds in (("ours", ours), ("peer", peer))
    }
    rehearsal = [
        {"side": "ours", "precision": "fp32", "seconds": 2.0, "reports": [report(3.0, loss=losses[0]), report(2.0)]},
        {
            "side": "peer",
            "precision": "fp32",
            "seconds": 9.0,
            "reports": [report(9.0, losses=[]), report(9.0, losses=[losses[1]])],
        },
    ]
    return {"rehearsal": rehearsal, "sides": sides}


def test_a_ratio_is_that_of_the_medians_with_the_range_of_the_rounds():
    from table import compared

    found = compared(outcome([1.0, 2.0, 1.0], [4.0, 4.0, 10.0]), "comparisons/s")
    assert found["ratio"] == pytest.approx(4.0)
    assert (found["ratio_lowest_round"], found["ratio_highest_round"], found["n"]) == (2.0, 10.0, 3)
    assert found["ours"]["per_second"] == 36.0
    assert found["first_losses"] == {"ours fp32": 0.7, "peer fp32": 0.7}


def test_other_losses_on_the_same_batch_end_the_benchmark():
    from table import check_same_losses

    check_same_losses("rm_k9", outcome([1.0], [1.0], losses=(0.7, 0.7005)))
    with pytest.raises(AssertionError, match="rm_k9 in fp32"):
        check_same_losses("rm_k9", outcome([1.0], [1.0], losses=(0.7, 0.71)))


def test_training_is_measured_against_a_matrix_product_of_the_same_rounds():
    from table import against_machine

    sides = {
        "ours": {"precision": "bf16", "loaded_mib": 50.0, "reports": [report(2.0, flop=8e9), report(1.0, flop=6e9)]},
        "machine": {
            "precision": "bf16",
            "loaded_mib": 50.0,
            "reports": [report(1.0, work=8e9), report(1.0, work=12e9)],
        },
    }
    found = against_machine({"rehearsal": [], "sides": sides}, "flop")
    assert found["ratio"] == pytest.approx(5 / 10)  # medians of 4 and 6, of 8 and 12 GFLOP/s
    assert (found["ratio_lowest_round"], found["ratio_highest_round"]) == (0.5, 0.5)


def test_a_planted_score_ranks_sequences_by_their_share_of_good_tokens(toy):
    """By hand: one token in four is good, of whichever ids and wherever they stand, the last place too."""
    from curve import EVERY, GAIN

    from preceptor.models.load import load_scalar
    from preceptor.training.reward import score_rows

    model = load_scalar(toy / "planted")
    rows = [(8, 16, 4, 12), (8, 9, 4, 12), (5, 8, 4, 12, 8, 7, 4, 8), (9, 8, 4, 13), (4, 9, 10, 11), (11, 9, 10, 6)]
    shares = [4 / 4, 3 / 4, 6 / 8, 2 / 4, 1 / 4, 0.0]
    assert shares == [sum(token % EVERY == 0 for token in row) / len(row) for row in rows]
    scores = score_rows(model, rows, 1).tolist()
    assert scores[1] == pytest.approx(scores[2], abs=1e-4)  # the share counts, not the number
    # The last layer norm divides by sqrt(1 + (mean / 4)^2): the mean stands at a quarter beside the last token.
    means = [2 * share - 1 for share in shares]
    assert scores == pytest.approx([GAIN * m / (1 + m**2 / 16) ** 0.5 for m in means], abs=1e-3)
    assert score_rows(model, [(8, 9, 4, 12, 0)], 1).item() == pytest.approx(GAIN * 0.4 / (1.01**0.5), abs=1e-3)


def test_answers_that_learn_from_the_planted_model_have_full_length(toy):
    from curve import TASKS
    from material import EOS, PAD, SIZES

    from preceptor.models.load import load_policy
    from preceptor.rollout.engine import generate
    from preceptor.types import Sampling

    for task in TASKS:
        prompts = json.loads((toy / task / "prompts.json").read_text())
        answers = generate(
            load_policy(toy / task),
            prompts,
            Sampling(temperature=0.7, max_new_tokens=SIZES["toy"].curve_answer),
            stop=frozenset([EOS]),
            pad=PAD,
        )
        assert {len(group[0].answer_tokens) for group in answers} == {SIZES["toy"].curve_answer}


def test_curves_are_compared_seed_by_seed():
    from curve import compared_curves, curve_lines
    from material import SIZES

    def side(*share: float) -> dict:
        reports = [{"share": number} for number in share]
        return {"warm": reports[:2], "reports": reports[2:]}

    start = [0.25] * 5
    found = {
        "curve_1": {"sides": {"ours": side(*start, *[0.9] * 5), "peer": side(*start, *[0.8] * 5)}},
        "curve_2": {"sides": {"ours": side(*start, *[0.7] * 5), "peer": side(*start, *[0.7] * 5)}},
        "curve_3": {"sides": {"ours": side(*start, *[0.8] * 5), "peer": side(*start, *[0.6] * 5)}},
    }
    detail = compared_curves(found)
    last = detail["spans"]["last"]
    assert last["iterations"] == [6, 10]
    assert last["difference"] == pytest.approx(0.1)  # of 0.1, 0 and 0.2: standard deviation 0.1
    assert last["interval"] == pytest.approx([0.1 - 4.303 * 0.1 / 3**0.5, 0.1 + 4.303 * 0.1 / 3**0.5])
    assert last["within_noise"]
    assert detail["spans"]["all"]["difference"] == pytest.approx(0.05)
    page = "\n".join(curve_lines(detail, SIZES["toy"]))
    assert "| last: 6 to 10 | 0.800 ± 0.100 | 0.700 ± 0.100 | +0.1000 (-0.1484 to +0.3484) | yes |" in page
    found["curve_2"]["sides"]["ours"] = side(*start, *[0.81] * 5)
    found["curve_3"]["sides"]["ours"] = side(*start, *[0.72] * 5)  # now 0.1, 0.11 and 0.12: more than noise
    detail = compared_curves(found)
    assert not detail["spans"]["last"]["within_noise"]
    assert detail["spans"]["first"]["within_noise"]  # the same on both sides


def test_decoding_counts_the_bytes_that_it_must_read(toy):
    from material import SIZES, read_tokens
    from transformers import AutoModelForCausalLM

    step = one_step("ours.py", "decode_many", toy)
    sizes, shape = SIZES["toy"], SIZES["toy"].medium
    model = AutoModelForCausalLM.from_pretrained(toy / "medium")
    weights = 4 * sum(p.numel() for p in model.parameters()) - 4 * shape.context * shape.width
    steps = sizes.answer - 1  # the first token comes of the prefill
    columns = sum(
        len(prompt) + token for prompt in read_tokens(toy)["prompts"][: sizes.rows] for token in range(1, sizes.answer)
    )
    assert step["decode_steps"] == steps
    assert step["bytes"] == steps * weights + columns * 4 * 2 * shape.layers * shape.width


def test_what_is_not_measured_is_null_with_a_reason():
    from bench import CONTESTS
    from table import figures

    absent = {contest.task for contest in CONTESTS} - {"rm_k9"}
    results = figures({"rm_k9": outcome([1.0], [5.0])}, dict.fromkeys(absent, "why"))
    assert set(results) == KEYS | {"reasons", "details"}
    assert results["rm_k9_vs_trl"] == pytest.approx(5.0)
    assert {key for key in KEYS if results[key] is None} == set(results["reasons"])


def test_a_contest_is_left_out_for_a_reason(monkeypatch):
    import bench

    [curve] = [contest for contest in bench.CONTESTS if contest.task == "curve_1"]
    monkeypatch.setitem(bench.ENVIRONMENTS, "trl-ppo", Path(sys.executable))
    assert bench.why_not(curve, ["curve_1"], "full") is None
    assert bench.why_not(curve, ["sft"], "full") == "not asked for in this run"
    assert bench.why_not(curve, ["curve_1"], "quick") == "not part of --sizes quick"
    monkeypatch.setitem(bench.ENVIRONMENTS, "trl-ppo", Path("/nowhere"))
    assert "make venv-trl" in bench.why_not(curve, ["curve_1"], "full")


def test_a_run_writes_the_results_and_their_page(tmp_path):
    from bench import run

    results = run("toy", ["generate", "decode_one"], 1, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()).keys() == KEYS | {"reasons", "details", "about"}
    assert results["generate_vs_transformers"] > 0
    assert results["decode_fraction_of_bandwidth"] > 0
    assert set(results["reasons"]) == KEYS - {"generate_vs_transformers", "decode_fraction_of_bandwidth"}
    [page] = tmp_path.glob("*.md")
    assert re.search(
        r"^\| generation, 4 answers to each prompt \| .* tokens/s \(fp32\) \|", page.read_text(), re.MULTILINE
    )
    assert page.stem.endswith(results["about"]["date"])


@pytest.mark.parametrize(
    ("task", "environment"),
    [("sft", ".venv-trl"), ("rm_k4", ".venv-trl"), ("ppo_ragged", ".venv-trl-ppo"), ("curve_1", ".venv-trl-ppo")],
)
def test_a_peer_works_a_step(toy, task, environment):
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment of the peer; run: make venv-trl")
    step = one_step("peer.py", task, toy, python)
    assert step["work"] > 0
    assert step["sequences"] > 0
    if task == "curve_1":
        check_share(step)


def test_our_side_of_a_curve_works_a_step(toy):
    check_share(one_step("ours.py", "curve_1", toy))


def check_share(step: dict) -> None:
    """A share of the tokens of answers of full length."""
    from material import SIZES

    good = step["share"] * SIZES["toy"].curve_episodes * SIZES["toy"].curve_answer
    assert 0 < step["share"] < 1
    assert good == pytest.approx(round(good))


def test_the_page_of_growth():
    import growth

    point = {"episodes": 64, "answer": 12, "tokens": 50.0, "milliseconds": 20.0, "peak_mib": 700.0}
    grown = growth.page({"hardware": "a machine", "load": 1.0, "seen": 512, "episodes": [point], "tokens": [point]})
    assert grown.count("| 64 | 50.0 | 20.0 | 0.400 | 700 |") == 2
