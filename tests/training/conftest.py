"""A small workspace with everything a stage reads: prompts, demonstrations, rankings, a corpus, two bases, a judge."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from preceptor.intake.corpus import import_corpus
from preceptor.models.load import scalar_from_policy
from preceptor.store import Workspace
from preceptor.types import Completion, Demonstration, Labeler, Prompt, Ranking
from tiny_models import WORDS, make_tokenizer, save, sentences

torch.set_num_threads(1)

TRAIN, VALID, RANKED = 22, 6, 13


def fill(workspace: Workspace) -> None:
    store = workspace.store
    prompts = [
        Prompt.of(
            f"name {WORDS[i % len(WORDS)]} {'and ' * (i % 4)}{WORDS[(i * 3) % len(WORDS)]}",
            user_id=f"u{i}",
            split="train" if i < TRAIN else "valid",
        )
        for i in range(TRAIN + VALID)
    ]
    store.add_prompts(prompts)
    store.add_labelers([Labeler(id="ann"), Labeler(id="bob"), Labeler(id="careless")])
    store.add_demonstrations(
        Demonstration.of(prompt.id, "ann", " ".join(WORDS[(i + j) % len(WORDS)] for j in range(2 + i % 5)))
        for i, prompt in enumerate(prompts[:TRAIN])
    )
    for i, prompt in enumerate(prompts[:RANKED]):
        texts = [" ".join(WORDS[(i * j + n) % len(WORDS)] for n in range(1 + (i + j * 3) % 7)) for j in range(4)]
        answers = [Completion.of(prompt.id, "somebody", text, index=j) for j, text in enumerate(texts)]
        store.add_completions(answers)
        ids = tuple(answer.id for answer in answers)
        shorter = tuple(1 + sum(len(other) < len(text) for other in texts) for text in texts)
        ranks = (1, 1, 1, 1) if i == 4 else shorter
        store.add_rankings(
            [
                Ranking.of(prompt.id, "ann", ids, ranks),
                Ranking.of(prompt.id, "bob", ids, ranks),
                Ranking.of(prompt.id, "careless", ids, tuple(5 - rank for rank in ranks)),
            ]
        )


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template") / "w"
    workspace = Workspace.create(root, 'base = "base"\n')
    fill(workspace)
    corpus = root / "text.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"{text} {i}"}) + "\n" for i, text in enumerate(sentences(120))))
    import_corpus(workspace, [corpus], name="tales", progress=False)
    tokenizer = make_tokenizer()
    save(workspace.model("base"), "llama", tokenizer, tied=True, context=512)
    save(workspace.model("base-gpt2"), "gpt2", tokenizer, context=512)
    judge = scalar_from_policy(workspace.model("base"), seed=3)
    judge.save_pretrained(workspace.model("judge"))
    tokenizer.save_pretrained(workspace.model("judge"))
    workspace.store.close()
    return root


@pytest.fixture
def workspace(template, tmp_path):
    """A fresh copy of the filled workspace."""
    shutil.copytree(template, tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    yield workspace
    workspace.store.close()


@pytest.fixture
def another(template, tmp_path):
    """A second, equal workspace."""
    shutil.copytree(template, tmp_path / "another")
    workspace = Workspace(tmp_path / "another")
    yield workspace
    workspace.store.close()


class Touch:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def hostile(tmp_path):
    """(bytes of a hostile pickle, the canary it would make); the pickle is shown to work."""
    canary = tmp_path / "canary"
    content = pickle.dumps(Touch(canary))
    pickle.loads(content)
    assert canary.exists()
    canary.unlink()
    yield content
    assert not canary.exists(), "a pickle was loaded"
