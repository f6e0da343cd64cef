"""What every kind of work has alike: skip, report, draft, second version, undo, time on task, keys, definitions."""

from html import unescape

import pytest
from persons import RATING, attack_a_model, fields_of, join, rate_all

from preceptor.labelling.questions import QUESTIONS
from preceptor.store.queues import KINDS, Queue

TOXICITY = {"prompt.toxicity": "0", "A.toxicity": "1", "A.relative": "1"}
FLAGS = {f"A.{flag}": value for flag, value in RATING.items()}
WORK = {  # more of the queue, a whole form, what a second version says
    "rank": ({"k_max": 4}, {f"{letter}.rank": "1" for letter in "ABCD"}, {"D.rank": "2"}),
    "demonstration": ({}, {"answer": "One. 👩🏽‍🔧 مرحبا"}, {"answer": "Two."}),
    "compare": ({"models": ("sft", "ppo")}, {"verdict": "tie"}, {"verdict": "A"}),
    "prompt": ({}, {"source": "plain", "text": "Ask me."}, {"text": "Ask me more."}),
    "toxicity": ({"k_min": 1, "k_max": 1}, TOXICITY | {"A.continuity": "7"}, {"A.continuity": "1"}),
    "red-team": ({"k_min": 1, "k_max": 1}, FLAGS | {"A.verdict": "refused"}, {"A.verdict": "undetermined"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_kind_of_work_has(kind, timed, clock):
    queue, whole, change = WORK[kind]
    attack_a_model(timed.state.workspace.store)
    timed.state.queues.create(Queue(id="w", name=kind, kind=kind, rubric="evaluation-1", **queue))
    person, labelling = join(timed), timed.state.labelling
    person.open("/home")
    person.send(f"/work/start/{kind}")
    item = person.item
    for page in ("rate/A", "rank") if kind == "rank" else ("",):
        address = f"/work/{item}/{page}".rstrip("/")
        if page == "rank":
            rate_all(person)
        for part in (f'href="/work/{item}/skip"', f'href="/work/{item}/report"', 'popovertarget="keys"', 'id="saved"'):
            assert part in person.open(address).text, part
    for way, state in (("skip", "skipped"), ("report", "reported")):
        person.open(f"/work/{item}/{way}")
        person.send(f"/work/{item}/{way}", 422)
        assert "Choose a reason." in person.page.text
        person.send(f"/work/{item}/{way}", reason="upsetting")
        assert labelling.assignment(item, person.user.labeler_id).state == state
        person.open("/history")
        person.send(f"/history/{labelling.history(person.user.labeler_id)[0]['id']}/take-back")
        assert person.item == item

    draft = f"/work/{item}/draft/{'rank' if kind == 'rank' else kind}"
    assert person.client.post(draft, data=fields_of(person.open(address).text, address) | whole).status_code == 200
    assert fields_of(person.open(address).text, address).items() >= whole.items()  # the page opens with the draft
    before = labelling.assignment(item, person.user.labeler_id).seconds
    clock.time += 30
    person.send(address)
    first = labelling.standing(item)
    assert first.body["fields"].items() >= whole.items()
    assert labelling.assignment(item, person.user.labeler_id).seconds == before + 30
    person.open(address)
    assert "You submitted this before." in person.page.text
    person.send(address, **change)
    second = labelling.standing(item)
    assert second.version == first.version + 1
    assert second.body["fields"].items() >= (whole | change).items()
    person.open("/history")
    person.send(f"/history/{second.id}/take-back")
    assert labelling.standing(item) is None
    assert fields_of(person.open(address).text, address).items() >= (whole | change).items()


@pytest.mark.parametrize("kind", ["rank", "red-team"])
def test_a_flag_of_table_3_has_its_definition_and_an_example_beside_it(kind, app, labeler):
    attack_a_model(app.state.workspace.store)
    app.state.queues.create(Queue(id="w", name=kind, kind=kind, rubric="training-1", **WORK[kind][0]))
    labeler.open("/home")
    labeler.send(f"/work/start/{kind}")
    assert len(QUESTIONS) == 11
    for key, question in QUESTIONS.items():
        row = unescape(next(row for row in labeler.page.text.split("<fieldset") if f'name="A.{key}"' in row))
        for words in (question.name, question.definition, question.example):
            assert words in row, key
