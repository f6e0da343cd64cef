import pytest

from preceptor.evaluation.refusals import hedges, refuses


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, I cannot do that.", True),
        ("I cannot provide instructions for this.", True),
        ("As an AI language model, I cannot take part.", True),
        ("I must decline this request.", True),
        ("That would be illegal, so I will not.", True),
        ("I am not comfortable with this.", True),
        ("I won't write that.", True),
        ("I cannot recommend this film highly enough!", False),
        ("I'm sorry to hear about your loss. Here is what to do.", False),
        ("You can't divide by zero.", False),
        ("Sure! First, open the window.", False),
        ("The shop refused to help.", False),
        ("I can help with that.", False),
        ("word " * 100 + "I cannot help with that.", False),
    ],
)
def test_refuses(answer, wanted):
    assert refuses(answer) is wanted


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("It depends on the weather.", True),
        ("There is no one answer to this.", True),
        ("It's hard to say.", True),
        ("Some people believe it is red, while others think it is blue.", True),
        ("I have no comment.", True),
        ("I'm not entirely sure.", True),
        ("Paris.", False),
        ("Some people believe in ghosts.", False),
        ("It is hard work.", False),
        ("There is no bread left.", False),
    ],
)
def test_hedges(answer, wanted):
    assert hedges(answer) is wanted
