from models import Scripted

from preceptor.evaluation import failures


def values(figures):
    return {figure.metric: figure.interval.value for figure in figures}


def test_a_model_that_always_says_the_same_in_english():
    found, shown = failures.figures(Scripted(reply=lambda talk: "That is because of the weather and it depends."))
    rates = values(found)
    assert rates["false premise accepted"] == 1.0
    assert rates["simple question hedged"] == 1.0
    assert rates["answered in another language"] == 1.0
    assert len(shown) == 48
    assert [row["fault"] for row in shown] == [figure.metric for figure in found for _ in range(16)]


def test_a_model_that_does_well():
    replies = dict.fromkeys(failures.FALSE_PREMISES, "It did not: that is a mistaken idea.")
    replies |= dict.fromkeys(failures.SIMPLE_QUESTIONS, "Paris.")
    replies |= {text: text for _, text in failures.OTHER_LANGUAGES}
    found, _ = failures.figures(Scripted(reply=lambda talk: replies[talk[-1].content]))
    assert set(values(found).values()) == {0.0}


def test_what_failed_comes_first():
    sure = dict.fromkeys(failures.SIMPLE_QUESTIONS, "Paris.")
    _, shown = failures.figures(Scripted(reply=lambda talk: sure.get(talk[-1].content, "No, it is not so.")))
    assert {row["fault"] for row in shown[:16]} == {"answered in another language"}
    assert not any("fault" in row for row in shown[16:])
