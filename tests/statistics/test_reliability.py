"""Who can be relied on: known truth by simulation, slow twins, and real votes with a known gold."""

import csv
import gzip
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from preceptor.statistics.dawid_skene import dawid_skene
from preceptor.statistics.reliability import (
    DIFFERENCES,
    _ordered,
    _scores,
    bradley_terry_equal,
    bradley_terry_with_reliability,
    labeler_weights,
)
from preceptor.types import Ranking

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not here")
    return path


# -- Dawid-Skene ------------------------------------------------------------------------------------------


def slow_dawid_skene(votes, categories, rounds, pseudo=1.0):
    """The same EM with dictionaries and products, one number at a time."""
    items = sorted({i for i, _, _ in votes})
    labelers = sorted({w for _, w, _ in votes})
    width = len(categories)
    posterior = {}
    for i in items:
        own = [v for j, _, v in votes if j == i]
        posterior[i] = [own.count(c) / len(own) for c in categories]
    for _ in range(rounds):
        table = {
            w: [[pseudo * (0.5 * (t == c) + 0.5 / width) for c in range(width)] for t in range(width)] for w in labelers
        }
        for i, w, v in votes:
            for t in range(width):
                table[w][t][categories.index(v)] += posterior[i][t]
        table = {w: [[x / sum(row) for x in row] for row in rows] for w, rows in table.items()}
        share = [(sum(posterior[i][t] for i in items) + 1) / (len(items) + width) for t in range(width)]
        for i in items:
            chance = list(share)
            for j, w, v in votes:
                if j == i:
                    chance = [chance[t] * table[w][t][categories.index(v)] for t in range(width)]
            posterior[i] = [c / sum(chance) for c in chance]
    return posterior, table


def simulated_votes(seed, items=300, accuracy=(0.95, 0.9, 0.6, 0.55, 0.5), seen=0.8, width=2):
    rng = np.random.default_rng(seed)
    truth = rng.random(items) < 0.3 if width == 2 else rng.integers(width, size=items)
    votes = []
    for w, right in enumerate(accuracy):
        for i in range(items):
            if rng.random() < seen:
                value = truth[i] if rng.random() < right else (truth[i] + rng.integers(1, width)) % width
                votes.append((f"i{i}", f"w{w}", int(value)))
    return {f"i{i}": int(t) for i, t in enumerate(truth)}, votes


def test_dawid_skene_matches_the_slow_twin():
    _, votes = simulated_votes(0, items=25, width=3)
    found = dawid_skene(votes, categories=[0, 1, 2], max_iterations=7)
    posterior, table = slow_dawid_skene(votes, [0, 1, 2], rounds=7)
    assert found.iterations == 7
    for item, row in posterior.items():
        np.testing.assert_allclose(found.posterior[item], row, atol=1e-10)
    for labeler, rows in table.items():
        np.testing.assert_allclose(found.confusion[labeler], rows, atol=1e-10)


def test_dawid_skene_finds_who_is_right():
    wins = 0
    for seed in range(10):
        truth, votes = simulated_votes(seed)
        found = dawid_skene(votes)
        assert found.converged
        assert sum(found.votes.values()) == len(votes)
        accuracy = found.accuracy()
        for labeler, right in zip(("w0", "w1", "w2", "w3", "w4"), (0.95, 0.9, 0.6, 0.55, 0.5)):
            assert accuracy[labeler] == pytest.approx(right, abs=0.13)
        majority = Counter()
        by_item = defaultdict(Counter)
        for item, _, value in votes:
            by_item[item][value] += 1
        for item, counts in by_item.items():
            best = [v for v, n in counts.items() if n == max(counts.values())]
            majority["right"] += (truth[item] in best) / len(best)
        right = sum(found.answers()[item] == truth[item] for item in by_item)
        wins += right > majority["right"]
    assert wins == 10


def test_a_labeler_who_always_says_the_opposite_is_turned_round():
    truth, votes = simulated_votes(3, accuracy=(0.9, 0.9, 0.9, 0.05))
    found = dawid_skene(votes)
    assert found.accuracy()["w3"] < 0.15
    assert np.mean([found.answers()[i] == truth[i] for i in found.posterior]) > 0.95


def test_dawid_skene_says_what_is_wrong():
    with pytest.raises(ValueError, match="no votes"):
        dawid_skene([])
    with pytest.raises(ValueError, match="'x' is not among"):
        dawid_skene([("i", "w", "x")], categories=["a", "b"])
    assert not dawid_skene(simulated_votes(0)[1], max_iterations=2).converged


def bbq():
    """Votes keyed by item and worker, and the gold answers."""
    gold, votes = {}, defaultdict(dict)
    with gzip.open(shared("bbq_mturk_votes/bbq_mturk_votes.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["vote"] is not None and row["gold"] is not None:
                item = json.dumps([row[key] for key in ("batch", "category", "item", "example_id")])
                gold[item] = row["gold"]
                votes[item][row["worker"]] = row["vote"]
    return gold, votes


def bbq_accuracies(gold, votes, keep, seed):
    """Accuracy of Dawid-Skene and of the majority (ties broken by a coin: expected share), `keep` votes per item."""
    rng = np.random.default_rng(seed)
    kept = [
        (item, worker, own[worker])
        for item, own in votes.items()
        for worker in rng.permutation(sorted(own))[:keep].tolist()
    ]
    answers = dawid_skene(kept, categories=[0, 1, 2]).answers()
    counts = defaultdict(Counter)
    for item, _, value in kept:
        counts[item][value] += 1
    majority = []
    for item, own in counts.items():
        best = [value for value, n in own.items() if n == max(own.values())]
        majority.append((gold[item] in best) / len(best))
    return np.mean([answers[item] == gold[item] for item in counts]), np.mean(majority)


def test_dawid_skene_beats_the_majority_on_bbq_where_votes_are_few():
    """With five votes an item both are at the ceiling (96 % of items: the rest is gold that the workers dispute).
    With two or four a majority often has to toss a coin, and knowing the workers pays; with three they are level."""
    gold, votes = bbq()
    for keep in (2, 3, 4):
        both = np.array([bbq_accuracies(gold, votes, keep, seed) for seed in range(5)])
        print(keep, "votes: Dawid-Skene, majority", both.mean(0), "differences", both[:, 0] - both[:, 1])
        if keep == 3:
            assert abs(both[:, 0] - both[:, 1]).max() < 0.004
        else:
            assert (both[:, 0] > both[:, 1]).all()
    all_votes = bbq_accuracies(gold, votes, 99, 0)
    print("all votes", all_votes, "items", len(gold))
    assert abs(all_votes[0] - all_votes[1]) < 0.002
    assert all_votes[0] > 0.95


# -- rankings ---------------------------------------------------------------------------------------------


def simulate(seed, *, prompts=1500, size=4, per_prompt=2, log_sd=0.6, labelers=20):
    """Plackett-Luce rankings; labeler l0 ranks at random. Returns rankings, beta and the true scores."""
    rng = np.random.default_rng(seed)
    beta = np.exp(rng.normal(0.5, log_sd, labelers))
    beta[0] = 0.02
    rankings, truth = [], {}
    for p in range(prompts):
        scores = rng.normal(size=size)
        ids = tuple(f"p{p}c{j}" for j in range(size))
        truth.update(zip(ids, scores))
        for labeler in rng.permutation(labelers)[:per_prompt]:
            noisy = beta[labeler] * scores + rng.gumbel(size=size)
            ranks = (-noisy).argsort().argsort() + 1
            rankings.append(Ranking.of(f"p{p}", f"l{labeler}", ids, tuple(int(r) for r in ranks)))
    return rankings, {f"l{i}": b for i, b in enumerate(beta)}, truth


def correlation(scores, truth):
    names = list(scores)
    return np.corrcoef([scores[n] for n in names], [truth[n] for n in names])[0, 1]


@pytest.mark.parametrize("per_prompt", [2, 3])
def test_reliabilities_are_found_and_make_the_scores_better(per_prompt):
    covered = seen = 0
    for seed in range(4):
        rankings, beta, truth = simulate(seed, per_prompt=per_prompt)
        found = bradley_terry_with_reliability(rankings)
        assert found.converged
        names = list(beta)
        value = np.array([found.reliability[n].value for n in names])
        true = np.array([beta[n] for n in names])
        assert names[int(value.argmin())] == "l0"
        assert np.corrcoef(np.log(value[1:]), np.log(true[1:]))[0, 1] > 0.85
        # Reliability is relative: 1 is the typical labeler.
        true = true * np.median(value) / np.median(true)
        for n, t in zip(names[1:], true[1:]):
            covered += found.reliability[n].low <= t <= found.reliability[n].high
            seen += 1
        assert correlation(found.scores, truth) > correlation(bradley_terry_equal(rankings).scores, truth) + 0.005
    assert covered / seen > 0.85


def test_labelers_who_are_alike_get_like_weights():
    rankings, _, _ = simulate(1, log_sd=0.0)
    weights = labeler_weights([r for r in rankings if r.labeler_id != "l0"])
    assert np.mean(list(weights.values())) == pytest.approx(1)
    assert np.std(list(weights.values())) < 0.2


def test_weights_have_mean_one_and_a_random_labeler_weighs_little():
    rankings, _, _ = simulate(2, per_prompt=3)
    lone = Ranking.of("lone", "hermit", ("x", "y", "z"), (1, 2, 3))
    tied = Ranking.of("p0", "undecided", ("p0c0", "p0c1"), (1, 1))
    weights = labeler_weights([*rankings, lone, tied])
    assert np.mean(list(weights.values())) == pytest.approx(1)
    assert weights["l0"] < 0.25
    assert weights["hermit"] == weights["undecided"]
    assert 0.5 < weights["hermit"] < 1.5
    assert labeler_weights([tied]) == {"undecided": 1.0}


def test_a_labeler_alone_is_not_called_reliable():
    """However many prompts the hermit ranks alone, nothing is learned: the value is the typical one, n is 0."""
    rankings, _, _ = simulate(3)
    alone = [Ranking.of(f"h{p}", "hermit", tuple(f"h{p}{c}" for c in "abcd"), (1, 2, 3, 4)) for p in range(300)]
    found = bradley_terry_with_reliability([*rankings, *alone]).reliability["hermit"]
    assert found.n == 0
    assert found.value == pytest.approx(1, abs=1e-3)
    assert found.low < 0.5
    assert found.high > 2


def test_scores_are_the_maximum_of_the_posterior():
    """Against scipy's general optimiser on the weighted log-posterior, written out one comparison at a time."""
    rankings, _, _ = simulate(4, prompts=3, per_prompt=3, labelers=5)
    table = _ordered(rankings)
    beta = np.array([0.5, 2.0, 1.0, 1.5, 0.7])[: len(table.labelers)]
    scores, errors, settled = _scores(rankings, table, beta, 1.3)
    assert settled
    names = list(scores)
    weight = 4 * (4 - (1 + 1 / 2 + 1 / 3 + 1 / 4)) / (4 * 3)

    def loss(s):
        value = (s**2).sum() / 2 / 1.3**2
        for r in rankings:
            b = beta[table.labelers.index(r.labeler_id)]
            for i, j in r.comparisons():
                d = s[names.index(r.completion_ids[i])] - s[names.index(r.completion_ids[j])]
                value += weight * np.logaddexp(0, -b * d)
        return value

    best = optimize.minimize(loss, np.zeros(len(names)), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose([scores[n] for n in names], best.x, atol=2e-4)
    step = 1e-4
    for k, name in enumerate(names[:4]):  # the curvature along one axis bounds the error from below
        bump = np.eye(len(names))[k] * step
        curvature = (loss(best.x + bump) - 2 * loss(best.x) + loss(best.x - bump)) / step**2
        assert errors[name] >= 1 / math.sqrt(curvature) - 1e-3


def test_the_chance_that_two_labelers_agree():
    """The formula under the fit: by simulation of two labelers on pairs of random scores."""
    rng = np.random.default_rng(0)
    difference = rng.normal(size=400_000) * math.sqrt(2)
    one, two = (rng.random(len(difference)) < expit(beta * difference) for beta in (0.7, 2.0))
    formula = (1 + (np.tanh(0.7 * DIFFERENCES / 2) * np.tanh(2.0 * DIFFERENCES / 2)).mean()) / 2
    assert (one == two).mean() == pytest.approx(formula, abs=0.003)


def test_ties_alone_teach_nothing():
    with pytest.raises(ValueError, match="no ranking puts"):
        bradley_terry_with_reliability([Ranking.of("p", "ann", ("a", "b"), (1, 1))])


def wmt13(level):
    path = shared("licence_unstated/wmt13_fr_en_rankings/sample-fr-en-train.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            ranks = {row[f"system{n}Id"]: int(row[f"system{n}rank"]) for n in range(1, 6)}
            ranks = {s: r for s, r in ranks.items() if r > 0}
            if len(ranks) > 1:
                names = tuple(s if level == "system" else f"{row['segmentId']} {s}" for s in ranks)
                yield Ranking.of(row["segmentId"], row["judgeId"], names, tuple(ranks.values()))


def held_out_loss(fit, rankings):
    """Per ranking: right comparisons, nats, number; only comparisons whose two completions have a score."""
    rows = []
    for r in rankings:
        beta = fit.reliability[r.labeler_id].value if r.labeler_id in fit.reliability else 1.0
        known = [
            fit.scores[r.completion_ids[i]] - fit.scores[r.completion_ids[j]]
            for i, j in r.comparisons()
            if r.completion_ids[i] in fit.scores and r.completion_ids[j] in fit.scores
        ]
        known = np.array(known)
        rows.append(((known > 0).sum(), np.logaddexp(0, -beta * known).sum(), len(known)))
    return np.array(rows)


@pytest.mark.parametrize("level", ["system", "translation"])
def test_wmt13_held_out(level):
    """Held-out judgements in nats, reliabilities against holding all judges equal.

    On single translations, where a completion has few judges, knowing the judges helps, beyond chance. On whole
    systems, where each score rests on thousands of judgements, it makes no difference that can be told.
    """
    rankings = list(wmt13(level))
    order = np.random.default_rng(0).permutation(len(rankings))
    held_out, train = ([rankings[i] for i in part] for part in (order[:2000], order[2000:]))
    fits = bradley_terry_with_reliability(train), bradley_terry_equal(train)
    assert fits[0].converged
    assert fits[1].converged
    ours, equal = (held_out_loss(fit, held_out) for fit in fits)
    n = ours[:, 2].sum()
    gain = (equal[:, 1] - ours[:, 1]).sum() / n
    rng = np.random.default_rng(1)
    draws = [rng.integers(len(ours), size=len(ours)) for _ in range(1000)]
    low, high = np.quantile([(equal[d, 1] - ours[d, 1]).sum() / ours[d, 2].sum() for d in draws], (0.025, 0.975))
    print(f"\n{level}: n {n}, accuracy {ours[:, 0].sum() / n:.4f} against {equal[:, 0].sum() / n:.4f}")
    print(
        f"nats {ours[:, 1].sum() / n:.4f} against {equal[:, 1].sum() / n:.4f}, gain {gain:.5f} [{low:.5f}, {high:.5f}]"
    )
    if level == "translation":
        assert low > 0
    else:
        assert low < 0 < high
        assert abs(gain) < 0.001
