"""Published comparisons of models, judged again by our engine: the same rates, the same order."""

import gzip
import json
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from preceptor.evaluation.reading import read_json
from preceptor.statistics.bradley_terry import bradley_terry
from preceptor.statistics.preference import win_rate

# Leaderboard of AlpacaEval 1 (GPT-4 as judge, against text-davinci-003), % preferred, as its repository printed it.
# Not in this list: `claude` (two of its versions went by this name), the falcons (two files under one name) and
# alpaca-7b-neft (under the name of a run).
ALPACA_EVAL = {
    "gpt4": 95.28,
    "cut-13b": 91.36,
    "zephyr-7b-beta": 90.60,
    "gpt-3.5-turbo-0301": 89.37,
    "tulu-2-dpo-7b": 84.22,
    "platolm-7b": 81.94,
    "gpt35_turbo_instruct": 81.71,
    "phi-2-dpo": 81.37,
    "recycled-wizardlm-7b-v1.0": 78.88,
    "wizardlm-13b": 75.31,
    "guanaco-65b": 71.80,
    "llama-2-7b-chat-hf": 71.37,
    "vicuna-13b": 70.43,
    "phi-2-sft": 68.53,
    "oasst-rlhf-llama-33b": 66.52,
    "minichat-3b": 48.82,
    "alpaca-farm-ppo-human": 41.24,
    "phi-2": 30.66,
    "alpaca-7b": 26.46,
    "text_davinci_001": 15.17,
}

# PandaLM, people's verdicts (majority of three): won, lost, tied by the first named.
PANDALM = {
    ("llama-7b", "bloom-7b"): (72, 28, 11),
    ("llama-7b", "cerebras-gpt-6.7B"): (80, 24, 6),
    ("llama-7b", "opt-7b"): (71, 24, 11),
    ("llama-7b", "pythia-6.9b"): (58, 27, 9),
    ("bloom-7b", "cerebras-gpt-6.7B"): (59, 30, 11),
    ("bloom-7b", "opt-7b"): (43, 35, 11),
    ("pythia-6.9b", "bloom-7b"): (49, 47, 11),
    ("opt-7b", "cerebras-gpt-6.7B"): (49, 33, 9),
    ("pythia-6.9b", "cerebras-gpt-6.7B"): (53, 27, 11),
    ("pythia-6.9b", "opt-7b"): (53, 32, 15),
}
PANDALM_ORDER = ["llama-7b", "pythia-6.9b", "bloom-7b", "opt-7b", "cerebras-gpt-6.7B"]


def test_alpaca_eval(shared_data):
    """Within a point of the leaderboard (a few of the 805 prompts are not in the file), and so in its order."""
    path = shared_data / "alpaca_eval_gpt4_prefs" / "alpaca_eval_gpt4_prefs.jsonl.gz"
    outcomes, prompts = defaultdict(list), defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            for candidate in json.loads(line)["candidates"]:
                outcomes[candidate["generator"]].append({1: 0.0, 2: 1.0}.get(candidate["preference"], 0.5))
                prompts[candidate["generator"]].append(number)
    found = {name: win_rate(outcomes[name], prompts[name]) for name in ALPACA_EVAL}
    assert len(found) == 20
    for name, published in ALPACA_EVAL.items():
        assert 100 * found[name].value == pytest.approx(published, abs=1.0), name
        assert found[name].low <= published / 100 <= found[name].high, name
    for (one, first), (other, second) in combinations(ALPACA_EVAL.items(), 2):
        if first - second > 1.5:
            assert found[one].value > found[other].value, (one, other)
    ranked = sorted(found, key=lambda name: -found[name].value)
    swapped = sum(ranked.index(a) > ranked.index(b) for a, b in combinations(ALPACA_EVAL, 2))
    assert swapped <= 2  # of 190 pairs: neighbours 0.6 points apart or less


def test_pandalm(shared_data):
    rows = read_json(shared_data / "pandalm_test" / "testset-v1.json.gz")
    verdicts, models, prompts = [], [], []
    for row in rows:
        vote, count = Counter(row[f"annotator{number}"] for number in (1, 2, 3)).most_common(1)[0]
        assert count >= 2  # some two of three people always agree in this file
        verdicts.append({0: 0.5, 1: 1.0, 2: 0.0}[vote])
        models.append(tuple(row["cmp_key"].split("_")))
        prompts.append(row["instruction"] + row["input"])
    for (winner, loser), (won, lost, tied) in PANDALM.items():
        mine = [
            (value if pair == (winner, loser) else 1 - value, prompt)
            for pair, value, prompt in zip(models, verdicts, prompts)
            if set(pair) == {winner, loser}
        ]
        rate = win_rate([value for value, _ in mine], [prompt for _, prompt in mine])
        assert rate.n == won + lost + tied
        assert rate.value == pytest.approx((won + tied / 2) / (won + lost + tied))
    fitted = bradley_terry([a for a, _ in models], [b for _, b in models], verdicts, prompts, resamples=20)
    strengths = {name: interval.value for name, interval in fitted.strengths.items()}
    assert sorted(strengths, key=lambda name: -strengths[name]) == PANDALM_ORDER
