"""What rows share is computed once and gives the same numbers as computed for each row."""

import random

import pytest
import torch

from preceptor.models.logprobs import answer_logprobs, answer_mask
from preceptor.rollout import shared
from preceptor.rollout.engine import generate
from preceptor.rollout.subject import LocalSubject
from preceptor.text.batches import pad_right
from preceptor.types import Message, Sampling
from tiny_models import ARCHITECTURES, VOCABULARY, make_model, save

PAD = 1
CHANCE = random.Random(0)


def ids(count):
    return [CHANCE.randrange(2, VOCABULARY) for _ in range(count)]


START = ids(70)


def alone(model, context, answer):
    """Slow twin: one row, no mask, no cache."""
    rows, lengths = pad_right([context + answer], PAD)
    before = torch.tensor([len(context)])
    with torch.no_grad():
        return answer_logprobs(model, rows, before, answer_mask(before, lengths))[0].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("start", [[], START])
def test_answers_of_one_context_score_as_each_alone(architecture, start, monkeypatch):
    monkeypatch.setattr(shared, "TOKENS", 60)  # several passes
    monkeypatch.setattr(shared, "ANSWERS", 3)  # a context with five answers takes two rows
    model = make_model(architecture)
    contexts = [start + ids(count) for count in (1, 4, 9)]
    pairs = [(context, ids(1 + number)) for context in contexts for number in range(5)]
    CHANCE.shuffle(pairs)
    found = shared.shared_logprobs(model, [c for c, _ in pairs], [a for _, a in pairs], PAD)
    for row, (context, answer) in zip(found, pairs):
        assert row == pytest.approx(alone(model, context, answer), abs=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_that_share_a_start_get_the_answers_they_get_alone(architecture, monkeypatch):
    model = make_model(architecture)
    prompts = [START + ids(count) for count in (1, 2, 7, 3)]
    settings = Sampling(temperature=0.0, max_new_tokens=10, seed=1)
    tokens = []
    body = model.base_model.forward

    def counted(*args, **kwargs):
        tokens.append(kwargs["input_ids"].numel())
        return body(*args, **kwargs)

    def said(**options):
        tokens.clear()
        found = generate(model, prompts, settings, stop=frozenset([VOCABULARY]), pad=PAD, **options)
        return [episode for (episode,) in found]

    monkeypatch.setattr(model.base_model, "forward", counted)
    together = said()
    assert tokens[:2] == [70, 4 * 7]  # the start once, then what differs
    apart = said(batch=1)
    assert [episode.answer_tokens for episode in together] == [episode.answer_tokens for episode in apart]
    for one, other in zip(together, apart):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)


def test_common_start_leaves_a_token_of_every_row():
    assert shared.common_start([]) == 0
    assert shared.common_start([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]]) == 2
    assert shared.common_start([[1, 2], [1, 2, 3]]) == 1
    assert shared.common_start([[1, 2], [1, 2]]) == 1
    assert shared.common_start([[1], [2]]) == 0


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return LocalSubject(save(tmp_path_factory.mktemp("model"), context=64))


def test_a_subject_leaves_out_what_its_context_cannot_hold(subject):
    short, long = "the red fox", "the red fox sees a blue whale " * 20
    first, none, last = subject.generate([short, long, "two old friends"], max_new_tokens=4)
    assert none is None
    assert [first, last] == subject.generate([short, "two old friends"], max_new_tokens=4)
    talks = [[Message(role="user", content=text)] for text in (short, long)]
    assert subject.answer(talks, max_new_tokens=4)[1] is None
    scores = subject.loglikelihood([(short, " sees"), (long, " sees"), (short, " sings")])
    assert scores[1] is None
    assert scores[0][1] >= 1
    assert subject.generate([long], max_new_tokens=4) == [None]
    assert subject.loglikelihood([]) == []


def test_the_last_place_of_the_context_can_be_used(subject):
    text = "the red fox sees a blue whale and the green bird sings to two old friends"
    count = len(subject.chat.tokenizer(text)["input_ids"])
    assert subject.generate([text], max_new_tokens=64 - count)[0] is not None
    assert subject.generate([text], max_new_tokens=65 - count)[0] is None


def test_a_subject_scores_shared_and_single_contexts_alike(subject):
    pairs = [("the red fox", " sees a whale"), ("the red fox", " sings"), ("our river", " house")]
    together = subject.loglikelihood(pairs)
    for pair, (total, count) in zip(pairs, together):
        ((wanted, tokens),) = subject.loglikelihood([pair])
        assert (total, count) == (pytest.approx(wanted, abs=1e-4), tokens)


def test_fewer_rows_at_once_where_the_cache_would_be_large(subject, monkeypatch):
    one = 2 * 2 * 16 * 4 * 50  # keys and values, layers, two of four heads of 8, float32, tokens
    monkeypatch.setattr("preceptor.rollout.subject.CACHE", 20 * one)
    assert subject._rows(50) == 20
    assert subject._rows(500) == 8
    assert subject._rows(1) == subject.batch
