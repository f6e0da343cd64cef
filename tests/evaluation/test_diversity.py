import math

import pytest
from models import Scripted

from preceptor.evaluation import diversity, scorers


def test_distinct_n_by_hand():
    # Words a b a c: 3 of 4 different; pairs "a b", "b a", "a c": all different.
    assert diversity.distinct_n(["a b", "a c"], 1) == 0.75
    assert diversity.distinct_n(["a b a c"], 2) == 1.0
    assert diversity.distinct_n(["a b", "a b"], 2) == 0.5
    assert diversity.distinct_n(["a"], 2) is None


def test_self_bleu():
    same = ["the cat sat on the mat"] * 3
    assert diversity.self_bleu(same) == pytest.approx(100)
    assert diversity.self_bleu(["a"]) is None
    texts = ["the cat sat on the mat", "the cat sat on a mat", "a dog ran far away home"]
    by_hand = sum(scorers.bleu([text], [[o for o in texts if o != text]]) for text in texts) / 3
    assert diversity.self_bleu(texts) == pytest.approx(by_hand)


def test_word_entropy():
    assert diversity.word_entropy(["a b", "c d"]) == 2.0
    assert diversity.word_entropy(["a a"]) == 0.0
    assert diversity.word_entropy(["a a a b"]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert diversity.word_entropy([""]) is None


def test_clusters_join_transitively():
    texts = ["one two three four five", "one two three four six", "red green", "one two three nine six", "red green"]
    # 0 and 1 share 4 of 8 pairs, so do 1 and 3; 0 and 3 share 3 of 9 only and are joined through 1.
    assert diversity.clusters(texts, 0.5) == [0, 0, 1, 0, 1]
    assert diversity.clusters(texts, 0.51) == [0, 1, 2, 3, 2]
    assert diversity.clusters(["", ""]) == [0, 0]


def test_figures_average_over_prompts():
    found = {figure.metric: figure.interval for figure in diversity.figures([["a a", "a a"], ["b c", "d e"]])}
    assert found["distinct-1"].value == pytest.approx((0.25 + 1) / 2)
    assert found["clusters per sample"].value == pytest.approx(0.75)
    assert found["length (words)"].value == 2.0
    assert found["length (words)"].clusters == 2
    assert found["refusals"].value == 0.0


def test_sampling_shape():
    replies = iter("abcdef")
    model = Scripted(reply=lambda talk: next(replies))
    said = diversity.sample(model, ["p", "q"], samples=3, temperature=1.0, max_new_tokens=5)
    assert said == [["a", "b", "c"], ["d", "e", "f"]]
    assert [talk[0].content for talk in model.calls] == ["p"] * 3 + ["q"] * 3
