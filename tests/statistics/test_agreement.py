"""Agreement: published examples, independent libraries, slow twins, and the real sets where they are present."""

import csv
import gzip
import itertools
import json
import math
from pathlib import Path

import krippendorff
import numpy as np
import pandas
import pytest
from irrCAC.raw import CAC
from scipy import stats

from preceptor.statistics.agreement import (
    agreement_between,
    alpha_interval,
    alpha_nominal,
    alpha_ordinal,
    by_group,
    concordance,
    flag_votes,
    gwet_ac1,
    kendall_tau_b,
    kendall_w,
    pairwise_agreement,
    pairwise_agreement_with_ties,
    quality_votes,
)
from preceptor.types import Ranking, Rating

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def votes_of(table):
    """Labelers in rows, items in columns -> votes, in an order that says nothing."""
    votes = [
        (f"item {item}", f"labeler {labeler}", value)
        for labeler, row in enumerate(table)
        for item, value in enumerate(row)
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]
    return [votes[i] for i in np.random.default_rng(5).permutation(len(votes))]


def rank(prompt, labeler, **ranks):
    return Ranking.of(prompt, labeler, tuple(ranks), tuple(ranks.values()))


def random_rankings(rng, *, prompts=30, labelers=6, pool=6, ties=True):
    """An incomplete design: each prompt is seen by some labelers, each of whom ranks some of its completions."""
    rankings = []
    for p in range(prompts):
        for labeler in rng.permutation(labelers)[: rng.integers(0, labelers)]:
            size = int(rng.integers(2, pool + 1))
            chosen = rng.permutation(pool)[:size]
            ranks = rng.integers(1, size + 1, size=size) if ties else rng.permutation(size) + 1
            rankings.append(
                Ranking.of(f"p{p}", f"l{labeler}", tuple(f"p{p}c{c}" for c in chosen), tuple(int(r) for r in ranks))
            )
    return rankings


# -- the paper's number -----------------------------------------------------------------------------------


def test_pairwise_agreement_by_hand():
    rankings = [
        rank("p", "ann", a=1, b=2, c=3),
        rank("p", "bob", b=1, a=2, c=3),  # ab differs, ac and bc alike
        rank("p", "cy", c=1, d=2),  # shares no pair
        rank("q", "ann", x=1, y=1),  # a tie: left out
        rank("q", "bob", x=1, y=2),
    ]
    found = pairwise_agreement(rankings)
    assert found.value == pytest.approx(2 / 3)
    assert (found.pairs, found.items, found.labelers) == (3, 1, 2)
    with_ties = pairwise_agreement_with_ties(rankings)
    assert with_ties.value == pytest.approx(2 / 4)
    assert (with_ties.pairs, with_ties.items, with_ties.labelers) == (4, 2, 2)


def test_two_ties_agree_only_when_ties_count():
    rankings = [rank("p", "ann", a=1, b=1), rank("p", "bob", a=2, b=2)]
    assert math.isnan(pairwise_agreement(rankings).value)
    assert pairwise_agreement_with_ties(rankings).value == 1


def test_a_later_ranking_replaces_the_earlier_one():
    rankings = [rank("p", "ann", a=1, b=2), rank("p", "bob", a=1, b=2), rank("p", "ann", a=2, b=1)]
    found = pairwise_agreement(rankings)
    assert (found.value, found.pairs) == (0, 1)


def slow_pairwise(rankings, with_ties):
    alike = total = 0
    for one, two in itertools.combinations(rankings, 2):
        if one.prompt_id != two.prompt_id or one.labeler_id == two.labeler_id:
            continue
        places = dict(zip(one.completion_ids, one.ranks)), dict(zip(two.completion_ids, two.ranks))
        for a, b in itertools.combinations(sorted(set(places[0]) & set(places[1])), 2):
            x, y = (np.sign(place[b] - place[a]) for place in places)
            if with_ties or (x and y):
                alike += x == y
                total += 1
    return alike / total, total


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_agreement_matches_the_slow_twin(seed):
    rankings = random_rankings(np.random.default_rng(seed))
    for measure, with_ties in ((pairwise_agreement, False), (pairwise_agreement_with_ties, True)):
        value, total = slow_pairwise(rankings, with_ties)
        assert measure(rankings).value == pytest.approx(value)
        assert measure(rankings).pairs == total


def test_the_order_of_rows_and_of_completions_changes_nothing():
    rng = np.random.default_rng(1)
    rankings = random_rankings(rng)
    shuffled = []
    for i in rng.permutation(len(rankings)):
        r = rankings[i]
        order = rng.permutation(len(r.ranks))
        shuffled.append(
            Ranking.of(
                r.prompt_id,
                r.labeler_id,
                tuple(r.completion_ids[k] for k in order),
                tuple(r.ranks[k] for k in order),
            )
        )
    for measure in (pairwise_agreement, kendall_tau_b, kendall_w):
        assert measure(rankings).value == pytest.approx(measure(shuffled).value)


def test_agreement_between_counts_only_pairs_across_the_sides():
    labelers = [rank("p", "ann", a=1, b=2, c=3), rank("p", "bob", a=3, b=2, c=1), rank("q", "bob", x=1, y=2)]
    gold = [rank("p", "gold", a=1, b=2, c=2), rank("q", "gold", x=1, y=2)]
    found = agreement_between(labelers, gold)  # ann 2 of 2 (bc is a gold tie), bob 0 of 2 and 1 of 1
    assert found.value == pytest.approx(3 / 5)
    assert (found.pairs, found.items, found.labelers) == (5, 2, 3)
    with pytest.raises(ValueError, match="'ann' is on both sides"):
        agreement_between(labelers, labelers)


def test_groups_are_measured_apart():
    rankings = [rank("p", name, a=1, b=2) for name in ("t1", "t2", "h1")] + [rank("p", "h2", a=2, b=1)]
    found = by_group(rankings, lambda r: r.labeler_id[0], pairwise_agreement)
    assert {cohort: agreement.value for cohort, agreement in found.items()} == {"t": 1.0, "h": 0.0}


def test_nothing_to_compare_is_not_a_number():
    for measure in (pairwise_agreement, pairwise_agreement_with_ties, kendall_tau_b, kendall_w):
        for rankings in ([], [rank("p", "ann", a=1, b=2)]):
            found = measure(rankings)
            assert math.isnan(found.value)
            assert (found.pairs, found.items, found.labelers) == (0, 0, 0)
    for measure in (alpha_nominal, alpha_ordinal, alpha_interval, gwet_ac1):
        for votes in ([], [("i", "ann", True)], [("i", "ann", 1), ("i", "ann", 2)]):
            assert math.isnan(measure(votes).value)


@pytest.mark.parametrize("true_share", [0.5, 0.73, 0.95])
def test_the_interval_covers_the_truth(true_share):
    """Prompts differ in how hard they are; 95 % of intervals hold the mean, within what 200 trials can show."""
    rng = np.random.default_rng(3)
    flip = (1 - math.sqrt(2 * true_share - 1)) / 2
    covered = 0
    for trial in range(200):
        rankings = []
        for p in range(120):
            wrong = rng.random(3) < flip
            rankings += [
                rank(f"p{p}", f"l{i}", **({f"{p}a": 2, f"{p}b": 1} if w else {f"{p}a": 1, f"{p}b": 2}))
                for i, w in enumerate(wrong)
            ]
        found = pairwise_agreement(rankings, draws=300, seed=trial)
        covered += found.low <= true_share <= found.high
    assert 0.88 * 200 <= covered <= 200


# -- Kendall ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_tau_b_is_the_mean_of_scipys(seed):
    rankings = random_rankings(np.random.default_rng(seed))
    values = []
    for one, two in itertools.combinations(rankings, 2):
        if one.prompt_id != two.prompt_id:
            continue
        places = dict(zip(one.completion_ids, one.ranks)), dict(zip(two.completion_ids, two.ranks))
        both = sorted(set(places[0]) & set(places[1]))
        if len(both) > 1:
            value = stats.kendalltau(*([place[c] for c in both] for place in places)).statistic
            if not math.isnan(value):
                values.append(value)
    found = kendall_tau_b(rankings)
    assert found.value == pytest.approx(np.mean(values))
    assert found.pairs == len(values)


def test_w_of_the_anxiety_table():
    """Twenty people, three raters, many ties; R package irr, kendall(anxiety, TRUE): W = 0.54, chi2(19) = 30.8."""
    anxiety = [
        [3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3],
        [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4],
        [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2],
    ]
    value = concordance(anxiety)
    assert value == pytest.approx(0.54, abs=0.005)
    assert 3 * 19 * value == pytest.approx(30.8, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_w_is_friedmans_statistic_rescaled(seed):
    """chi-squared = m (n - 1) W, ties corrected alike in both."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(3, 9)), int(rng.integers(3, 9))
    table = rng.integers(1, 5, size=(m, n))
    expected = stats.friedmanchisquare(*table.T).statistic / (m * (n - 1))
    assert concordance(table) == pytest.approx(expected)


def test_w_by_hand():
    assert concordance([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1)
    assert concordance([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0)
    assert concordance([[1, 1, 2], [1, 1, 3]]) == pytest.approx(1)  # the same ties, other numbers
    assert math.isnan(concordance([[1, 1], [2, 2]]))
    rankings = [rank("p", "ann", a=1, b=2, c=3), rank("p", "bob", c=3, b=2, a=1), rank("p", "cy", a=1, z=2)]
    rankings += [rank("q", "ann", x=1, y=2), rank("q", "bob", x=2, y=1)]
    found = kendall_w(rankings)  # block p {a, b, c}: 1; block q: 0; cy stands alone
    assert (found.value, found.pairs, found.items, found.labelers) == (pytest.approx(0.5), 2, 2, 2)


# -- alpha and AC1 ----------------------------------------------------------------------------------------


def test_krippendorffs_own_example():
    votes = votes_of(KRIPPENDORFF)
    assert alpha_nominal(votes).value == pytest.approx(0.743, abs=5e-4)
    assert alpha_ordinal(votes).value == pytest.approx(0.815, abs=5e-4)
    assert alpha_interval(votes).value == pytest.approx(0.849, abs=5e-4)
    assert (alpha_nominal(votes).items, alpha_nominal(votes).labelers) == (11, 4)


def test_gwets_own_example():
    """Gwet, Handbook of Inter-Rater Reliability, 4th ed. (2014), p. 120 uses the same table: AC1 = 0.77544."""
    assert gwet_ac1(votes_of(KRIPPENDORFF)).value == pytest.approx(0.77544, abs=5e-6)


def test_ac1_of_a_two_by_two_table_by_hand():
    """Two labelers, 125 items, 118 twice no, 2 + 5 split: agreement is 0.944, yet kappa is below 0.

    Chance by Gwet: 2 p (1 - p) with p = 7 / 250, so AC1 = (0.944 - 0.054432) / (1 - 0.054432) = 0.940776.
    """
    table = [[False] * 118 + [True] * 5 + [False] * 2, [False] * 118 + [False] * 5 + [True] * 2]
    found = gwet_ac1(votes_of(table))
    assert found.value == pytest.approx(0.940776, abs=1e-6)
    assert alpha_nominal(votes_of(table)).value < 0


def test_ac1_knows_that_a_flag_has_two_values():
    votes = [("a", "ann", False), ("a", "bob", False)]
    assert gwet_ac1(votes).value == 1
    assert math.isnan(gwet_ac1([("a", "ann", "x"), ("a", "bob", "x")]).value)
    assert gwet_ac1([("a", "ann", "x"), ("a", "bob", "x")], categories=["x", "y"]).value == 1
    with pytest.raises(ValueError, match="'x' is not among"):
        gwet_ac1([("a", "ann", "x")], categories=["y", "z"])


def test_alpha_of_one_value_only_is_undefined():
    for measure in (alpha_nominal, alpha_ordinal, alpha_interval):
        found = measure([("a", "ann", 1), ("a", "bob", 1)])
        assert math.isnan(found.value)
        assert found.pairs == 1


def incomplete_table(seed, labelers=5, items=40, width=5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, width + 1, size=items)
    noisy = rng.integers(1, width + 1, size=(labelers, items))
    table = np.where(rng.random((labelers, items)) < 0.5, truth, noisy).astype(float)
    table[rng.random((labelers, items)) < 0.45] = np.nan
    return table


@pytest.mark.parametrize("seed", range(8))
def test_alpha_matches_the_krippendorff_library(seed):
    table = incomplete_table(seed)
    votes = votes_of(table.tolist())
    for measure, level in ((alpha_nominal, "nominal"), (alpha_ordinal, "ordinal"), (alpha_interval, "interval")):
        assert measure(votes).value == pytest.approx(krippendorff.alpha(table, level_of_measurement=level))


@pytest.mark.parametrize("seed", range(8))
def test_alpha_interval_far_from_zero_keeps_its_digits(seed):
    table = incomplete_table(seed)
    votes = votes_of((table + 1e6).tolist())
    assert alpha_interval(votes).value == pytest.approx(krippendorff.alpha(table, level_of_measurement="interval"))


@pytest.mark.parametrize("seed", range(8))
def test_ac1_matches_the_irrcac_library(seed):
    table = incomplete_table(seed)
    table = table[:, ~np.isnan(table).all(0)]
    expected = CAC(pandas.DataFrame(table.T), digits=10).gwet()["est"]["coefficient_value"]
    assert gwet_ac1(votes_of(table.tolist())).value == pytest.approx(expected, abs=1e-9)


def test_the_bootstrap_of_alpha_resamples_items():
    """Against a slow twin that draws items with replacement and computes alpha afresh."""
    table = incomplete_table(2)
    rng = np.random.default_rng(0)
    slow = [
        krippendorff.alpha(table[:, rng.integers(table.shape[1], size=table.shape[1])], level_of_measurement="ordinal")
        for _ in range(1500)
    ]
    found = alpha_ordinal(votes_of(table.tolist()), draws=1500)
    low, high = np.quantile(slow, (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_votes_of_ratings():
    ratings = [
        Rating(id="1", completion_id="c", labeler_id="ann", quality=6, flags={"hallucination": True}),
        Rating(id="2", completion_id="c", labeler_id="bob", quality=5),
    ]
    assert flag_votes(ratings, "hallucination") == [("c", "ann", True)]
    assert quality_votes(ratings) == [("c", "ann", 6), ("c", "bob", 5)]


# -- real people ------------------------------------------------------------------------------------------


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not here")
    return path


def convabuse():
    with gzip.open(shared("convabuse/ConvAbuseEMNLPfull.csv.gz"), "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            severity = next(s for s in (1, 0, -1, -2, -3) if row[f"is_abuse.{s}"] == "1")
            item = "|".join(row[key] for key in ("conv_id", "prev_agent", "prev_user", "agent", "user", "bot"))
            yield item, row["annotator_id"], severity


def test_convabuse():
    votes = list(convabuse())
    latest = {(item, labeler): value for item, labeler, value in votes}
    labelers, items = (sorted({key[i] for key in latest}) for i in (1, 0))
    places = {item: place for place, item in enumerate(items)}
    table = np.full((len(labelers), len(items)), np.nan)
    for (item, labeler), value in latest.items():
        table[labelers.index(labeler), places[item]] = value
    for measure, level in ((alpha_nominal, "nominal"), (alpha_ordinal, "ordinal"), (alpha_interval, "interval")):
        found = measure(votes)
        print(level, found)
        assert found.value == pytest.approx(krippendorff.alpha(table, level_of_measurement=level))
        assert found.low < found.value < found.high
    flag = [(item, labeler, value < 1) for item, labeler, value in votes]
    found = gwet_ac1(flag)
    print("AC1 of the abuse flag", found)
    assert found.value > alpha_nominal(flag).value  # the flag is rare


def pandalm():
    with gzip.open(shared("pandalm_test/testset-v1.json.gz"), "rt", encoding="utf-8") as lines:
        for row in json.load(lines):
            for n in (1, 2, 3):
                verdict = int(row[f"annotator{n}"])
                ranks = {0: (1, 1), 1: (1, 2), 2: (2, 1)}[verdict]
                pair = tuple(f"{row['idx']} {row['cmp_key']} {side}" for side in (1, 2))
                yield Ranking.of(str(row["idx"]), f"annotator {n}", pair, ranks)


def test_pandalm():
    rankings = list(pandalm())
    found = pairwise_agreement(rankings)
    print("pandalm, ties left out", found, "\nties agree", pairwise_agreement_with_ties(rankings))
    print("tau-b", kendall_tau_b(rankings))
    value, total = slow_pairwise(rankings[:900], False)
    assert pairwise_agreement(rankings[:900]).value == pytest.approx(value)
    assert pairwise_agreement(rankings[:900]).pairs == total
    assert 0.8 < found.value < 1
    assert found.labelers == 3


def wmt13():
    """Judges' five-way rankings; an item is a source sentence, a completion is a system's output for it."""
    path = shared("licence_unstated/wmt13_fr_en_rankings/sample-fr-en-train.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            ranks = {row[f"system{n}Id"]: int(row[f"system{n}rank"]) for n in range(1, 6)}
            ranks = {system: rank for system, rank in ranks.items() if rank > 0}
            if len(ranks) > 1:
                yield Ranking.of(row["segmentId"], row["judgeId"], tuple(ranks), tuple(ranks.values()))


def test_wmt13():
    rankings = list(wmt13())
    found = pairwise_agreement(rankings)
    print("wmt13, ties left out", found, "\nties agree", pairwise_agreement_with_ties(rankings))
    print("tau-b", kendall_tau_b(rankings))
    assert 0.5 < found.low < found.value < found.high < 1
    assert found.labelers > 150
