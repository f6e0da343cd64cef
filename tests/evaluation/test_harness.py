"""Choices scored as lm-evaluation-harness scores them: against its definition written out, and against itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from preceptor.errors import UserError
from preceptor.evaluation import harness, scorers, tax_sets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTINUATIONS = [
    {"activity_label": "Cooking", "ctx": f"The cook takes {n} eggs. Then the cook", "label": str(n % 4), "endings": [
        "breaks them into a bowl.", "runs out of the house and into the sea.", "sleeps.", "sings to the eggs all day."]}
    for n in range(40)
]  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """ARC-easy where it is at hand, and HellaSwag-style items of our own."""

    folder = tmp_path_factory.mktemp("items")
    (folder / "h.jsonl").write_text("\n".join(map(json.dumps, CONTINUATIONS)))
    found = {"hellaswag": tax_sets.read_hellaswag(folder / "h.jsonl")}
    arc = Path(__file__).resolve().parents[2] / "../shared/data" / "arc_easy" / "arc_easy.jsonl.gz"
    if arc.exists():
        found["arc_easy"] = tax_sets.read_arc(arc)[:200]
    return found


@pytest.fixture(scope="module")
def folder(items, tmp_path_factory):
    from preceptor.models.presets import new_model
    from preceptor.text.tokenizer import train_tokenizer

    texts = [item.query + " " + " ".join(item.choices) for group in items.values() for item in group]
    tokenizer = train_tokenizer(texts, 600)
    torch.manual_seed(0)
    model = new_model("tiny", tokenizer, 256)
    with torch.no_grad():  # spread the probabilities, so that choices differ by more than rounding
        for weight in model.parameters():
            weight.mul_(3.0)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def subject(folder):
    from preceptor.rollout.subject import LocalSubject

    return LocalSubject(folder)


def ours(subject, items):
    """(share right by total, by characters) as the harness counts them, from our own log-likelihoods."""
    pairs = [(item.query, f" {choice}") for item in items for choice in item.choices]
    scores = iter(subject.loglikelihood(pairs))
    rows = [(item, [next(scores) for _ in item.choices]) for item in items]
    total = [scorers.likeliest_choice(row) == item.gold for item, row in rows]
    per_byte = [scorers.likeliest_choice_per_byte(row, item.choices) == item.gold for item, row in rows]
    return float(np.mean(total)), float(np.mean(per_byte))


def by_definition(folder, items):
    """Slow twin: one choice at a time through transformers, the continuation's tokens found as the harness does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    total, normal = [], []
    for item in items:
        logs = []
        for choice in item.choices:
            context = tokenizer.encode(item.query)
            whole = tokenizer.encode(f"{item.query} {choice}")
            with torch.no_grad():
                logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            logs.append(sum(float(logits[place - 1, whole[place]]) for place in range(len(context), len(whole))))
        total.append(int(np.argmax(logs)) == item.gold)
        normal.append(int(np.argmax([v / len(c) for v, c in zip(logs, item.choices)])) == item.gold)
    return float(np.mean(total)), float(np.mean(normal))


@pytest.mark.parametrize("name", ["hellaswag", "arc_easy"])
def test_within_one_item_of_the_definition(subject, folder, items, name):
    if name not in items:
        pytest.skip("ARC-easy is not here")
    some = items[name][:80]
    for mine, theirs in zip(ours(subject, some), by_definition(folder, some)):
        assert abs(mine - theirs) <= 1 / len(some) + 1e-9


@pytest.mark.parametrize("name", ["hellaswag", "arc_easy"])
def test_within_one_item_of_the_harness(subject, folder, items, name, tmp_path):
    """The harness with its own model class, and with ours behind its door, on the same local file."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    if name not in items:
        pytest.skip("ARC-easy is not here")
    rows = [{"query": item.query, "choices": list(item.choices), "gold": item.gold} for item in items[name]]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": f"local_{name}", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "d.jsonl")}, "cache_dir": str(tmp_path)},
        "doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    model = HFLM(pretrained=str(folder), device="cpu", batch_size=8)
    theirs = lm_eval.simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)["results"][f"local_{name}"]
    behind = harness.run_harness(subject, [task])[f"local_{name}"]
    for mine, metric in zip(ours(subject, items[name]), ("acc,none", "acc_norm,none")):
        assert abs(mine - theirs[metric]) <= 1 / len(rows) + 1e-9
        assert abs(behind[metric] - theirs[metric]) <= 1 / len(rows) + 1e-9


def test_without_the_harness_one_line_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'preceptor\[harness\]'"):
        harness.run_harness(None, [])
