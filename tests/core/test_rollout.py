"""The rollout engine against transformers' own generation and against the trainer's log-probabilities."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from preceptor.errors import UserError
from preceptor.models.logprobs import answer_logprobs, answer_mask
from preceptor.rollout.batch import Row, RunningBatch
from preceptor.rollout.draw import draw, uniforms
from preceptor.rollout.engine import generate
from preceptor.text.batches import pad_right
from preceptor.types import Sampling
from tiny_models import ARCHITECTURES, VOCABULARY, make_model

PAD = 1
NEVER = frozenset([VOCABULARY])  # no token
EOS = frozenset(range(0, VOCABULARY, 12))  # frequent ends, so that rows leave at many lengths
PROMPTS = [[5], [9, 30, 31], [7, 8, 40, 41, 42, 43, 44, 45, 46], [6, 50], [9, 9, 9, 60, 61, 62], [70], [71, 72]]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


def answers(model, prompts=PROMPTS, stop=EOS, **options):
    settings = {name: options.pop(name) for name in list(options) if name in Sampling.__slots__}
    sampling = Sampling(**{"max_new_tokens": 12, "seed": 3, **settings})
    return generate(model, prompts, sampling, stop=stop, pad=PAD, **options)


def tokens(rows):
    return [[episode.answer_tokens for episode in row] for row in rows]


def retold(model, rows, temperature=1.0):
    """The trainer's log-probabilities of the episodes, one list each."""
    episodes = [episode for row in rows for episode in row]
    ids, lengths = pad_right([e.prompt_tokens + e.answer_tokens for e in episodes], PAD)
    prompts = torch.tensor([len(e.prompt_tokens) for e in episodes])
    mask = answer_mask(prompts, lengths)
    with torch.no_grad():
        logprobs = answer_logprobs(model, ids, prompts, mask, temperature)
    return [logprobs[i, : len(e.answer_tokens)].tolist() for i, e in enumerate(episodes)]


# -- against transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_greedy_is_the_greedy_of_transformers(architecture, tied):
    model = make_model(architecture, tied=tied)
    ours = answers(model, temperature=0.0, max_new_tokens=20, batch=3)
    ended = 0
    for prompt, (episode,) in zip(PROMPTS, ours):
        whole = model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=sorted(EOS), pad_token_id=PAD
        )
        assert list(episode.answer_tokens) == whole[0, len(prompt) :].tolist()
        assert episode.prompt_tokens == tuple(prompt)
        ended += episode.finish_reason == "stop"
    assert ended > 0


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_log_probabilities_are_the_trainers(architecture, temperature):
    model = make_model(architecture)
    rows = answers(model, temperature=temperature, k=3, batch=5)
    ours = [episode.logprobs for row in rows for episode in row]
    for mine, theirs in zip(ours, retold(model, rows, temperature), strict=True):
        assert list(mine) == pytest.approx(theirs, abs=1e-4)


def test_greedy_reports_log_probabilities_at_temperature_1():
    model = make_model()
    rows = answers(model, temperature=0.0)
    for row, theirs in zip(rows, retold(model, rows), strict=True):
        assert list(row[0].logprobs) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.6), (0.7, 0.9)])
def test_with_top_p_log_probabilities_are_of_the_renormalised_distribution(temperature, top_p):
    model = make_model()
    cut = 0
    for row in answers(model, temperature=temperature, top_p=top_p, k=2):
        for episode in row:
            whole = list(episode.prompt_tokens + episode.answer_tokens)
            with torch.no_grad():
                logits = model(torch.tensor([whole])).logits[0].double() / temperature
            for t, (token, logprob) in enumerate(zip(episode.answer_tokens, episode.logprobs)):
                p = torch.softmax(logits[len(episode.prompt_tokens) - 1 + t], -1).tolist()
                kept, held = [], 0.0
                for place in sorted(range(len(p)), key=lambda place: -p[place]):
                    if held >= top_p:
                        break
                    kept.append(place)
                    held += p[place]
                assert token in kept
                assert logprob == pytest.approx(np.log(p[token] / held), abs=1e-4)
                cut += len(kept) < len(p)
    assert cut


# -- draws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_draws_have_the_distribution_they_report(temperature, top_p):
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5]).expand(20_000, -1)
    u = torch.from_numpy(uniforms(0, 0, 20_000))
    ids, logprobs = draw(logits, torch.full((20_000,), temperature), torch.full((20_000,), top_p), u)
    p = torch.softmax(logits[0].double() / temperature, -1)
    if top_p < 1:
        p = p * torch.tensor([1, 0, 0, 1, 0])  # the two likeliest hold 0.79
        p = p / p.sum()
    counts = Counter(ids.tolist())
    possible = [token for token in range(5) if p[token] > 0]
    assert set(counts) == set(possible)
    expected = [20_000 * p[token].item() for token in possible]
    assert chisquare([counts[token] for token in possible], expected).pvalue > 0.01
    torch.testing.assert_close(logprobs, p.log()[ids].float())


def test_answers_have_the_distribution_of_the_model():
    model = make_model()
    rows = answers(model, [[9, 30, 31]], NEVER, k=6000, max_new_tokens=2, batch=3000)[0]
    first = Counter(episode.answer_tokens[0] for episode in rows)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([[9, 30, 31]])).logits[0, -1].double(), -1).tolist()
    frequent = [token for token in range(VOCABULARY) if 6000 * p[token] >= 10]
    observed = [first[token] for token in frequent]
    rest = 6000 - sum(observed)
    expected = [6000 * p[token] for token in frequent]
    assert chisquare([*observed, rest], [*expected, 6000 - sum(expected)]).pvalue > 0.01
    # and the second token given the likeliest first one
    (likely, count), *_ = first.most_common(1)
    second = Counter(episode.answer_tokens[1] for episode in rows if episode.answer_tokens[0] == likely)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([[9, 30, 31, likely]])).logits[0, -1].double(), -1).tolist()
    frequent = [token for token in range(VOCABULARY) if count * p[token] >= 5]
    observed, expected = [second[token] for token in frequent], [count * p[token] for token in frequent]
    assert len(frequent) >= 3
    tail = [count - sum(observed)], [count - sum(expected)]
    assert chisquare([*observed, *tail[0]], [*expected, *tail[1]]).pvalue > 0.01


def test_uniform_numbers_at_the_edges_find_possible_tokens():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    ids, _ = draw(logits, torch.ones(3), torch.ones(3), u)
    assert ids.tolist() == [1, 2, 2]


# -- what an answer depends on --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_answers_are_the_same_whatever_shares_the_batch(architecture, batch):
    model = make_model(architecture)
    assert tokens(answers(model, k=3, batch=batch)) == tokens(answers(model, k=3, batch=256))


def test_answers_follow_seed_prompt_and_number():
    model = make_model()
    rows = tokens(answers(model, k=4))
    assert rows == tokens(answers(model, k=4))
    assert rows != tokens(answers(model, k=4, seed=4))
    assert len(set(rows[2])) == 4
    assert tokens(answers(model, PROMPTS[2:4], k=4, first_number=8)) == rows[2:4]


def test_the_seed_of_a_row_has_room_for_large_numbers():
    assert uniforms(2**63 + 5, 2**40, 3).tolist() != uniforms(2**63 + 5, 2**40 + 1, 3).tolist()


def test_training_mode_is_left_as_it_was_and_dropout_does_not_act():
    model = make_model("gpt2")
    expected = tokens(answers(model))
    model.train()
    assert tokens(answers(model)) == expected
    assert model.training


# -- ends -----------------------------------------------------------------------------------------------------


def test_answers_end_at_a_stop_token_or_at_the_length():
    reasons = Counter()
    for row in answers(make_model(), k=8):
        for episode in row:
            *before, last = episode.answer_tokens
            assert not EOS & set(before)
            assert (last in EOS) == (episode.finish_reason == "stop")
            assert len(episode.answer_tokens) == 12 or episode.finish_reason == "stop"
            assert len(episode.logprobs) == len(episode.answer_tokens)
            reasons[episode.finish_reason] += 1
    assert len(reasons) == 2


def test_one_token_answers_and_no_prompts():
    model = make_model()
    rows = answers(model, max_new_tokens=1, k=2)
    assert {len(episode.answer_tokens) for row in rows for episode in row} == {1}
    assert answers(model, []) == []


def test_the_last_position_of_the_context_can_be_used_and_no_more(architecture):
    model = make_model(architecture, context=16)
    prompts = [[7] * 9, [8, 9], [7] * 4]
    rows = answers(model, prompts, EOS, max_new_tokens=7, batch=8, k=6)
    for mine, theirs in zip([e.logprobs for row in rows for e in row], retold(model, rows)):
        assert list(mine) == pytest.approx(theirs, abs=1e-4)
    with pytest.raises(UserError, match="may reach 17 tokens, but this model's context has 16"):
        answers(model, prompts, max_new_tokens=8)


def test_rows_that_ended_stay_within_the_context_while_others_go_on():
    """Positions of finished rows that wait for the next tidying must not run off GPT-2's table."""
    model = make_model("gpt2", context=16)
    long, short = [7] * 15, [[8 + i, 9] for i in range(12)]
    rows = [Row(prompt=long, sampling=Sampling(max_new_tokens=1), number=0, stop=NEVER)]
    rows += [Row(prompt=p, sampling=Sampling(max_new_tokens=12), number=1 + i, stop=NEVER) for i, p in enumerate(short)]
    batch = RunningBatch(model, PAD, 13, 40)
    batch.join(rows)
    while batch.alive:
        batch.step()
    assert [len(row.tokens) for row in rows] == [1] + [12] * 12


# -- economy --------------------------------------------------------------------------------------------------


def count_calls(model):
    """Shapes [rows, tokens] of every forward pass of the model's body."""
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_the_answers_of_a_prompt_share_its_prefill():
    model = make_model()
    shapes = count_calls(model)
    answers(model, [[9, 30, 31], [5, 6, 7], [9, 30, 31]], NEVER, k=8, max_new_tokens=5)
    assert shapes[0] == (2, 3)  # two distinct prompts, once each
    assert shapes[1:] == [(24, 1)] * 4  # the fifth token needs no further look


def test_finished_rows_leave_and_waiting_ones_take_their_place():
    model = make_model()
    shapes = count_calls(model)
    rows = answers(model, k=20, batch=16)
    steps = [rows for rows, width in shapes if width == 1]
    prefills = len(shapes) - len([s for s in shapes if s[1] == 1 and s[0] > 7])
    drawn = sum(len(episode.answer_tokens) for row in rows for episode in row)
    assert max(steps) <= 16
    assert prefills > 1
    # Without refilling, 140 rows in 9 batches of 16 would take up to 12 steps each, with most of the rows idle.
    assert sum(steps) < 1.4 * drawn


def test_a_batch_that_empties_shrinks():
    model = make_model()
    shapes = count_calls(model)
    answers(model, [PROMPTS[1]], k=40, batch=40)
    widths = [rows for rows, width in shapes if width == 1]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]


def test_progress_is_told_every_answer_once():
    told = []
    answers(make_model(), k=3, batch=4, progress=told.append)
    assert sum(told) == 3 * len(PROMPTS)


# -- room -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [4, 10, 13, 60])
def test_a_running_batch_closes_gaps_and_grows(architecture, columns):
    """Rows of different lengths join at different times into a cache that is too narrow for all of it."""
    model = make_model(architecture)
    rows = [
        Row(prompt=PROMPTS[i % 7], sampling=Sampling(max_new_tokens=3 + 5 * i % 11, seed=3), number=i, stop=EOS)
        for i in range(24)
    ]
    batch = RunningBatch(model, PAD, 6, columns)
    waiting = list(rows)
    moved = 0
    close = batch.cache.gather_columns

    def counted(order):
        nonlocal moved
        moved += 1
        close(order)

    batch.cache.gather_columns = counted
    while waiting or batch.alive:
        if waiting and batch.free:
            batch.join([waiting.pop(0)])
        batch.step()
    assert moved or columns == 60
    for row in rows:
        ((episode,),) = generate(model, [row.prompt], row.sampling, stop=EOS, pad=PAD, first_number=row.number)
        assert tuple(row.tokens) == episode.answer_tokens
        assert row.logprobs == pytest.approx(episode.logprobs, abs=1e-4)


def test_the_cache_stays_as_wide_as_its_rows_need():
    model = make_model()
    batch = RunningBatch(model, PAD, 4, 24)
    for number in range(60):
        batch.join([Row(prompt=[9] * 8, sampling=Sampling(max_new_tokens=9), number=number, stop=NEVER)])
        batch.step()
        while not batch.free:
            batch.step()
    assert batch.cache.columns <= 36


def test_a_row_whose_client_left_is_dropped_without_harm_to_the_others():
    model = make_model()
    rows = [Row(prompt=p, sampling=Sampling(max_new_tokens=8), number=i, stop=NEVER) for i, p in enumerate(PROMPTS[:4])]
    batch = RunningBatch(model, PAD, 4, 30)
    batch.join(rows)
    for _ in range(3):
        batch.step()
    batch.drop([rows[1]])
    assert batch.free == 1
    while batch.alive:
        batch.step()
    assert len(rows[1].tokens) == 3
    for row in (rows[0], rows[2], rows[3]):
        ((episode,),) = generate(model, [row.prompt], row.sampling, stop=NEVER, pad=PAD, first_number=row.number)
        assert tuple(row.tokens) == episode.answer_tokens


def test_rows_of_one_batch_may_sample_each_in_its_own_way():
    model = make_model()
    settings = [
        Sampling(temperature=0.0, max_new_tokens=6),
        Sampling(temperature=0.6, max_new_tokens=9, seed=8),
        Sampling(temperature=1.0, top_p=0.5, max_new_tokens=7, seed=9),
    ]
    rows = [Row(prompt=[9, 30, 31], sampling=s, number=i, stop=EOS) for i, s in enumerate(settings)]
    batch = RunningBatch(model, PAD, 3, 30)
    batch.join(rows)
    while batch.alive:
        batch.step()
    for row in rows:
        ((episode,),) = generate(model, [row.prompt], row.sampling, stop=EOS, pad=PAD, first_number=row.number)
        assert tuple(row.tokens) == episode.answer_tokens
        assert row.logprobs == pytest.approx(episode.logprobs, abs=1e-4)


def test_a_window_narrower_than_the_rows_is_refused():
    model = make_model("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    model.config.sliding_window = 10
    with pytest.raises(UserError, match="attends to the last 10 only"):
        answers(model, [[5] * 8], max_new_tokens=5)
