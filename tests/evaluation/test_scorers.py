"""Every scorer against a value worked out by hand, and against somebody else's implementation where there is one."""

import math

import numpy as np
import pytest

from preceptor.evaluation import scorers


def test_normalise_drops_case_punctuation_and_articles():
    assert scorers.normalise("The  Cat's, a-b!") == "cats ab"


def test_token_f1_by_hand():
    # 2 shared of 3 predicted and 4 gold words: P 2/3, R 2/4, F 4/7.
    assert scorers.token_f1("big red dog", "red dog ran away") == pytest.approx(4 / 7)
    assert scorers.token_f1("the", "") == 1.0
    assert scorers.token_f1("dog", "") == 0.0


def test_squad_unanswerable():
    assert scorers.squad("Not in background.", []) == (1.0, 1.0)
    assert scorers.squad("not in background", ["Not in background."]) == (1.0, 1.0)
    assert scorers.squad("Paris", []) == (0.0, 0.0)
    assert scorers.squad("Not in background.", ["Paris"]) == (0.0, 0.0)
    # As text the word "background" would earn something here; as no answer it does not.
    assert scorers.squad("Not in background.", ["the background noise"])[1] == 0.0
    assert scorers.squad("the city of Paris", ["Rome", "Paris"]) == (0.0, pytest.approx(0.5))  # P 1/3, R 1


def test_quac_by_hand():
    assert scorers.quac_f1("red dog", ["red dog"]) == 1.0
    # Hold out each of two: best over the rest is 1 (against "red dog") once, 0 (against "cat") once.
    assert scorers.quac_f1("red dog", ["red dog", "cat"]) == pytest.approx(0.5)
    # Two of four say there is no answer: that is at least half, so all count as no answer.
    assert scorers.quac_f1("I don't know", ["I don't know.", "I don't know.", "cat", "dog"]) == 1.0
    # One of three: dropped.
    assert scorers.quac_f1("cat", ["I don't know.", "cat", "cat"]) == 1.0
    assert scorers.quac_f1("I don't know.", ["cat"]) == 0.0


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("56 yards", [["56"]], 0.0, 0.67),  # P 1/2, R 1
        ("56.0", [["56"]], 1.0, 1.0),  # numbers compare as floats
        ("about 12", [["56"]], 0.0, 0.0),
        ("12 yards", [["56 yards"]], 0.0, 0.0),  # the number was not said, so the word earns nothing
        ("Rivers", [["Philip Rivers", "Mike Tolbert"]], 0.0, 0.33),  # 2/3 on one of two needed spans
        (["Mike Tolbert", "Philip Rivers"], [["Philip Rivers", "Mike Tolbert"]], 1.0, 1.0),
        ("Rivers", [["Tolbert"], ["Rivers"]], 1.0, 1.0),  # alternatives: the best counts
        ("24-yard field goal", [["24 yard field goal"]], 1.0, 1.0),
        ("", [["x"]], 0.0, 0.0),
    ],
)
def test_drop(said, answers, exact, f1):
    assert scorers.drop(said, answers) == (exact, pytest.approx(f1))


def test_bleu_counts_sum_to_the_corpus_score():
    said = ["the cat sat on the mat", "a dog", "hello there my friend of old", "the"]
    gold = [["the cat sat on a mat"], ["a dog ran", "dogs"], ["hello there my old friend"], ["cat"]]
    counts = scorers.bleu_counts(said, gold)
    assert scorers.bleu_of_counts(counts.sum(axis=0))[0] == pytest.approx(scorers.bleu(said, gold))
    for rows in ([0], [1], [0, 1], [2, 3], [3]):
        some = scorers.bleu([said[i] for i in rows], [gold[i] for i in rows])
        assert scorers.bleu_of_counts(counts[rows].sum(axis=0))[0] == pytest.approx(some)


def test_bleu_by_hand():
    # 5 words against 6, every n-gram right: only the brevity penalty exp(1 - 6/5) is left.
    assert scorers.bleu(["a b c d e"], [["a b c d e f"]]) == pytest.approx(100 * math.exp(-0.2))


def test_rouge_l_by_hand():
    # Longest common subsequence "cat on mat" = 3 words: P 3/4, R 3/5.
    assert scorers.rouge("cat lay on mat", ["cat sat on red mat"]) == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert scorers.rouge("cats", ["cat"]) == 1.0
    assert scorers.rouge("cats", ["cat"], stem=False) == 0.0
    assert scorers.rouge("dog", ["cat", "dog"]) == 1.0


def test_first_line():
    assert scorers.first_line("\n Paris\nQ: next") == "Paris"


def test_multiple_choice_takes_the_highest_mean():
    # Sums -4, -3, -6; means -2, -3, -1.5.
    scores = [(-4.0, 2), (-3.0, 1), (-6.0, 4)]
    assert scorers.best_choice(scores) == 2
    assert scorers.likeliest_choice(scores) == 1
    assert scorers.likeliest_choice_per_byte(scores, ["ab", "abcdef", "a"]) == 1
    with pytest.raises(ValueError, match="no tokens"):
        scorers.best_choice([(0.0, 0)])


def test_entropy_in_bits():
    assert scorers.entropy_bits([-3.0, -3.0]) == pytest.approx(1.0)
    assert scorers.entropy_bits([math.log(0.9), math.log(0.1)]) == pytest.approx(0.469, abs=5e-4)
    # Only the ratio counts, however small the probabilities.
    assert scorers.entropy_bits([math.log(0.9) - 900, math.log(0.1) - 900]) == pytest.approx(0.469, abs=5e-4)
    assert scorers.entropy_bits([0.0, -2000.0]) == 0.0
    assert scorers.entropy_bits(np.log([0.25] * 4)) == pytest.approx(2.0)
