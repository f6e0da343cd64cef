import pytest
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


def test_a_model_that_does_well():
    replies = dict.fromkeys(failures.FALSE_PREMISES, "It did not: that is a mistaken idea.")
    replies |= dict.fromkeys(failures.SIMPLE_QUESTIONS, "Paris.")
    replies |= {text: text for _, text in failures.OTHER_LANGUAGES}
    found, _ = failures.figures(Scripted(reply=lambda talk: replies[talk[-1].content]))
    assert set(values(found).values()) == {0.0}


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("It was built in 1889.", []),
        ("It was built in 1887 by Eiffel.", ["1887"]),
        ("It cost 1,000,000 francs", ["1,000,000"]),
        ("The tower was designed by Sauvestre.", ["Sauvestre"]),
        ("Paris has it. Visitors like it.", []),
        ("Gustave", []),
        ("about 300 metres", []),
    ],
)
def test_unsupported(answer, made_up):
    passage = "The tower of Gustave Eiffel in Paris was built in 1889 and is 300 metres high."
    assert failures.unsupported(passage, answer) == made_up


def test_closed_domain_by_hand():
    passages = ["In 1889 it opened."] * 2 + ["Nothing here."] * 2
    said = ["In 1889.", "In 1890.", "Not in background.", "In 1700."]
    rates = values(failures.closed_domain_figures(passages, said, [True, True, False, False]))
    assert rates == {"unsupported claim": pytest.approx(2 / 3), "answered the unanswerable": 0.5}
