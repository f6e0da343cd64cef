"""What labelers do, page by page, without script: every form works bare."""

import re
from concurrent.futures import ThreadPoolExecutor

from persons import Person, fields_of, join, rank_next, rank_queue, rate_all

from preceptor.labelling.app import create_app
from preceptor.store.events import events
from preceptor.store.queues import Queue
from preceptor.types import FLAGS


def queue(app, kind, **more):
    values = {"id": f"w_{kind}", "name": kind, "kind": kind, "rubric": "training-1"} | more
    return app.state.queues.create(Queue(**values))


def begin(person, kind):
    person.open("/home")
    person.send(f"/work/start/{kind}")
    return person.item


def ranks(person, item, given):
    return person.send(f"/work/{item}/rank", **{f"{letter}.rank": rank for letter, rank in zip("ABCDEFGHI", given)})


def test_a_ranking_with_ties_becomes_rows_for_training(app, workspace, labeler):
    rank_queue(app)
    item = rank_next(labeler, "12233")
    (ranking, prompt), *rest = workspace.store.rankings()
    assert not rest
    assert ranking.ranks == (1, 2, 2, 3, 3)
    found = app.state.labelling.assignment(item, labeler.user.labeler_id)
    assert ranking.completion_ids == tuple(completion.id for completion in found.completions)
    assert ranking.labeler_id == labeler.user.labeler_id
    assert prompt.id == found.prompt.id
    ratings = list(workspace.store.ratings())
    assert len(ratings) == 5
    assert {rating.quality for rating in ratings} == {4}
    assert all("satisfies_constraint" not in rating.flags and len(rating.flags) == 10 for rating in ratings)


def test_the_order_is_shuffled_for_each_labeler_and_names_no_model(app):
    rank_queue(app, overlap_share=1.0, overlap_labels=8)
    orders = set()
    for _ in range(8):
        person = join(app)
        item = begin(person, "rank")
        found = app.state.labelling.assignment(item, person.user.labeler_id)
        page = person.page.text
        orders.add((found.prompt.id, tuple(completion.id for completion in found.completions)))
        for completion in found.completions:
            assert completion.id not in page
            assert completion.model_id not in re.findall(r"\w+", page)
    assert len({prompt for prompt, _ in orders}) == 1
    assert len(orders) > 1


def test_nothing_is_filled_in_and_an_incomplete_rating_is_refused_but_kept(app, labeler):
    rank_queue(app)
    item = begin(labeler, "rank")
    assert " checked" not in labeler.page.text
    labeler.send(f"/work/{item}/rate/A", 422, **{"A.quality": "6", "A.fails_task": "yes", "A.note": "Hm <b>"})
    assert "Nothing was lost" in labeler.page.text
    labeler.open(f"/work/{item}/rate/A")
    kept = fields_of(labeler.page.text)
    assert (kept["A.quality"], kept["A.fails_task"], kept["A.note"]) == ("6", "yes", "Hm <b>")


def test_no_to_the_rest_leaves_what_was_answered_and_the_limits_question(app, labeler):
    rank_queue(app)
    item = begin(labeler, "rank")
    labeler.send(f"/work/{item}/rate/A", **{"A.hallucination": "yes", "rest": "no"})
    kept = fields_of(labeler.page.text)
    assert kept["A.hallucination"] == "yes"
    assert "A.satisfies_constraint" not in kept
    assert "A.quality" not in kept
    assert sum(kept.get(f"A.{flag}") == "no" for flag in FLAGS) == 9


def test_the_ranking_page_waits_until_all_are_rated_and_all_are_ranked(app, workspace, labeler):
    rank_queue(app)
    item = begin(labeler, "rank")
    labeler.open(f"/work/{item}/rank")
    assert labeler.path == f"/work/{item}/rate/A"
    labeler.open(f"/work/{item}/rate/D")
    assert labeler.path == f"/work/{item}/rate/A"
    rate_all(labeler)
    labeler.send(f"/work/{item}/rank", 422, **{"A.rank": "1", "C.rank": "6", "D.rank": "x"})
    assert "4 answers have no rank yet" in labeler.page.text
    assert not list(workspace.store.rankings())
    kept = fields_of(labeler.page.text)
    assert kept["A.rank"] == "1"
    ranks(labeler, item, "11111")
    (ranking, _), *_ = workspace.store.rankings()
    assert ranking.ranks == (1,) * 5


def test_the_same_form_sent_twice_counts_once(app, workspace, labeler):
    rank_queue(app)
    item = begin(labeler, "rank")
    rate_all(labeler)
    form = fields_of(labeler.page.text) | {f"{letter}.rank": "1" for letter in "ABCDE"}
    first = labeler.client.post(f"/work/{item}/rank", data=form, headers={"accept": "application/json"}).json()
    second = labeler.client.post(f"/work/{item}/rank", data=form, headers={"accept": "application/json"}).json()
    assert first["fresh"]
    assert second == {"id": first["id"], "version": 1, "fresh": False}
    assert len(list(workspace.store.rankings())) == 1


def test_the_same_form_sent_many_times_at_once_counts_once(app, workspace, labeler):
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    form = fields_of(labeler.page.text) | {"answer": "once"}
    cookies, headers = dict(labeler.client.cookies), {"accept": "application/json"}

    def send(_):
        other = Person(app)
        other.client.cookies.update(cookies)
        return other.client.post(f"/work/{item}", data=form, headers=headers).json()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert len({answer["id"] for answer in answers}) == 1
    assert sum(answer["fresh"] for answer in answers) == 1
    assert len(list(workspace.store.demonstrations())) == len(list(events(workspace.store))) == 1


def test_a_page_that_was_gone_back_to_has_an_old_key_and_loses_nothing(app, workspace, labeler):
    """A browser may show a page again as it was left, with the key that was used: what it says now is not dropped."""
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    form = fields_of(labeler.page.text)
    labeler.client.post(f"/work/{item}", data=form | {"answer": "with a typpo"})
    again = labeler.client.post(f"/work/{item}", data=form | {"answer": "without a typo"})
    assert again.status_code == 409
    assert "kept as a draft" in again.text
    assert fields_of(labeler.open(f"/work/{item}").text)["answer"] == "without a typo"
    ((made, _),) = workspace.store.demonstrations()
    assert made.text == "with a typpo"
    labeler.send(f"/work/{item}")
    ((made, _),) = workspace.store.demonstrations()
    assert made.text == "without a typo"


def test_a_form_that_was_taken_back_does_not_count_when_it_comes_again(app, workspace, labeler):
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    form = fields_of(labeler.page.text) | {"answer": "mine"}
    labeler.client.post(f"/work/{item}", data=form)
    labeler.open("/history")
    labeler.send(f"/history/{app.state.labelling.standing(item).id}/take-back")
    assert labeler.client.post(f"/work/{item}", data=form).status_code == 409
    assert not list(workspace.store.demonstrations())
    labeler.open(f"/work/{item}/skip")
    skip = fields_of(labeler.page.text) | {"reason": "unclear"}
    assert labeler.client.post(f"/work/{item}/skip", data=skip | {"key": ""}).status_code == 409
    labeler.client.post(f"/work/{item}/skip", data=skip)
    (skipped,) = [row for row in app.state.labelling.history(labeler.user.labeler_id) if row["kind"] == "skip"]
    labeler.open("/history")
    labeler.send(f"/history/{skipped['id']}/take-back")
    assert labeler.client.post(f"/work/{item}/skip", data=skip).status_code == 409
    assert app.state.labelling.assignment(item, labeler.user.labeler_id).state == "held"


def test_a_second_version_replaces_the_first_and_both_are_kept(app, workspace, labeler):
    rank_queue(app)
    item = rank_next(labeler, "12345")
    labeler.open(f"/work/{item}/rank")
    assert "You submitted this before" in labeler.page.text
    assert fields_of(labeler.page.text)["B.rank"] == "2"
    ranks(labeler, item, "54321")
    ((ranking, _),) = workspace.store.rankings()
    assert ranking.ranks == (5, 4, 3, 2, 1)
    assert len(list(workspace.store.ratings())) == 5
    versions = [(row["version"], row["body"]["fields"]["A.rank"]) for row in events(app.state.workspace.store)]
    assert versions == [(1, "1"), (2, "5")]


def test_what_a_second_version_takes_away_is_gone(app, workspace, labeler):
    rank_queue(app, k_max=4)
    labeler.open("/home")
    labeler.send("/work/start/rank")
    item = labeler.item
    labeler.send(f"/work/{item}/rate/A", 422, **{"A.note": "A first thought."})
    labeler.open(f"/work/{item}/rate/A")
    rate_all(labeler)
    ranks(labeler, item, "1234")
    assert {rating.notes for rating in workspace.store.ratings()} == {"A first thought.", ""}
    labeler.open(f"/work/{item}/rate/A")
    labeler.send(f"/work/{item}/rate/A", **{"A.note": ""})
    assert "A.note" not in app.state.labelling.draft_on_top(item).fields
    labeler.open(f"/work/{item}/rank")
    form = fields_of(labeler.page.text)
    del form["B.rank"]
    refused = labeler.client.post(f"/work/{item}/rank", data=form)
    assert refused.status_code == 422
    assert "1 answer has no rank yet" in refused.text
    assert "B.rank" not in fields_of(refused.text)
    labeler.client.post(f"/work/{item}/rank", data=form | {"B.rank": "1"})
    ((ranking, _),) = workspace.store.rankings()
    assert ranking.ranks == (1, 1, 3, 4)
    assert {rating.notes for rating in workspace.store.ratings()} == {""}


def test_taking_back_empties_the_tables_and_brings_the_draft_again(app, workspace, labeler):
    rank_queue(app)
    item = rank_next(labeler, "12345")
    submission = app.state.labelling.standing(item).id
    labeler.open("/history")
    labeler.send(f"/history/{submission}/take-back")
    assert labeler.path == f"/work/{item}/rank"
    assert fields_of(labeler.page.text)["E.rank"] == "5"
    assert not list(workspace.store.rankings())
    assert not list(workspace.store.ratings())
    ranks(labeler, item, "12345")
    assert len(list(workspace.store.rankings())) == 1
    assert [row["withdrawn_at"] is None for row in events(app.state.workspace.store)] == [False, True]


def test_demonstration(app, workspace, labeler):
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    labeler.send(f"/work/{item}", 422, answer="   ")
    labeler.send(f"/work/{item}", answer="Half an answer", action="draft")
    assert labeler.path == "/home"
    assert "Continue your draft" in labeler.page.text
    labeler.open(f"/work/{item}")
    assert fields_of(labeler.page.text)["answer"] == "Half an answer"
    text = "مرحبا 👩🏽‍🔧\n\n<script>alert(1)</script> & done"
    labeler.send(f"/work/{item}", answer=text)
    ((made, prompt),) = workspace.store.demonstrations()
    assert made.text == text
    assert made.prompt_id == prompt.id
    assert made.labeler_id == labeler.user.labeler_id


def test_written_prompts_of_three_kinds(app, workspace, labeler):
    queue(app, "prompt")
    item = begin(labeler, "prompt")
    labeler.send(f"/work/{item}", 422, source="few-shot", text="Answer kindly.")
    labeler.send(
        f"/work/{item}",
        source="few-shot",
        text="Answer kindly.",
        **{"query.1": "Q1", "reply.1": "R1", "query.2": "Q2", "reply.2": "R2"},
    )
    made = {prompt.text: demonstration.text for demonstration, prompt in workspace.store.demonstrations()}
    assert made == {"Answer kindly.\n\nQ2\nR2\n\nQ1": "R1", "Answer kindly.\n\nQ1\nR1\n\nQ2": "R2"}
    for source, more in (("plain", {}), ("user-based", {"use_case": "a shop"})):
        item = begin(labeler, "prompt")
        labeler.send(f"/work/{item}", source=source, text=f"A {source} prompt", **more)
    written = [prompt for prompt in workspace.store.prompts() if prompt.user_id == labeler.user.labeler_id]
    assert sorted(prompt.source for prompt in written) == ["few-shot", "few-shot", "plain", "user-based"]
    assert len({prompt.split for prompt in written}) == 1


def test_comparison_of_two_models(app, workspace):
    person = join(app, cohort="held-out")
    queue(app, "compare", cohort="held-out", rubric="evaluation-1", models=("sft", "ppo"))
    item = begin(person, "compare")
    person.send(f"/work/{item}", 422)
    found = app.state.labelling.assignment(item, person.user.labeler_id)
    person.send(f"/work/{item}", verdict="B")
    ((ranking, _),) = workspace.store.rankings()
    assert ranking.ranks == (2, 1)
    assert ranking.rubric == "evaluation-1"
    assert ranking.completion_ids == tuple(completion.id for completion in found.completions)
    assert {completion.model_id for completion in found.completions} == {"sft", "ppo"}
    assert person.path.startswith("/work/a_")
    assert person.item != item


def test_toxicity_form(app, labeler):
    queue(app, "toxicity", k_min=2, k_max=2, rubric="evaluation-1")
    item = begin(labeler, "toxicity")
    labeler.send(f"/work/{item}", 422, **{"prompt.toxicity": "3"})
    answers = {"prompt.toxicity": "2"}
    for letter, relative, rank in (("A", "-1", "1"), ("B", "1", "2")):
        answers |= {f"{letter}.toxicity": "1", f"{letter}.relative": relative}
        answers |= {f"{letter}.continuity": "6", f"{letter}.rank": rank}
    labeler.send(f"/work/{item}", **answers)
    (opinion,) = app.state.oversight.opinions(kinds=("toxicity",))
    assert opinion.fields["A.relative"] == "-1"


def test_skip_and_report_need_a_reason_and_can_be_taken_back(app, labeler):
    rank_queue(app)
    item = begin(labeler, "rank")
    labeler.open(f"/work/{item}/skip")
    labeler.send(f"/work/{item}/skip", 422)
    labeler.send(f"/work/{item}/skip", 422, reason="other")
    labeler.send(f"/work/{item}/skip", reason="language")
    other = begin(labeler, "rank")
    assert other != item
    labeler.open(f"/work/{other}/report")
    labeler.send(f"/work/{other}/report", reason="personal", text="a phone number")
    assert [row["body"]["text"] for row in app.state.queues.halted()] == ["a phone number"]
    task = app.state.labelling.assignment(other, labeler.user.labeler_id).task_id
    somebody = join(app)
    seen = set()
    while "/work/" in (somebody.open("/home"), somebody.send("/work/start/rank"))[1].url.path:
        seen.add(app.state.labelling.assignment(somebody.item, somebody.user.labeler_id).task_id)
        somebody.open(f"/work/{somebody.item}/skip")
        somebody.send(somebody.path, reason="knowledge")
    assert task not in seen
    report = app.state.queues.halted()[0]["id"]
    labeler.open("/history")
    labeler.send(f"/history/{report}/take-back")
    assert labeler.path == f"/work/{other}/rate/A"
    assert not app.state.queues.halted()


def test_overlap_is_a_seeded_share_and_no_label_is_handed_out_twice(tmp_path):
    from persons import make_workspace

    workspace = make_workspace(tmp_path / "many", prompts=60)
    app = create_app(workspace)
    made = rank_queue(app, overlap_share=0.25, overlap_labels=3, seed=7)
    again = rank_queue(app, overlap_share=0.25, overlap_labels=3, seed=7)
    counts = app.state.queues.progress()
    assert counts[made.id]["items"] == 60
    shared = (counts[made.id]["waiting"] - 60) / 2
    assert 7 <= shared <= 24
    assert counts[again.id]["waiting"] == counts[made.id]["waiting"]
    app.state.queues.set_state(again.id, "closed")
    people = [join(app) for _ in range(4)]
    taken = []
    for person in people:
        labeler = person.user.labeler_id
        while item := app.state.queues.take(labeler, "rank", cohort="training", trial=False):
            found = app.state.labelling.assignment(item, labeler)
            taken.append((found.task_id, found.wanted, labeler))
            app.state.labelling.set_aside(item, labeler, key="k", kind="skip", reason="unclear", text="")
    assert len(taken) == len(set(taken)) == 4 * 60  # skips free the place, so everybody sees each item once
    workspace.store.close()


def test_a_lapsed_hold_goes_to_someone_else_and_the_draft_still_counts(timed, workspace, clock):
    rank_queue(timed, overlap_share=0.0, lease_minutes=10, k_max=5)
    timed_app = timed
    first, second = join(timed), join(timed)
    task_ids = set()
    item = begin(first, "rank")
    rate_all(first)
    form = fields_of(first.page.text) | {f"{letter}.rank": "1" for letter in "ABCDE"}
    task_ids.add(timed_app.state.labelling.assignment(item, first.user.labeler_id).task_id)
    clock.time += 11 * 60
    other = begin(second, "rank")
    rate_all(second)
    ranks(second, other, "12345")
    assert timed_app.state.labelling.assignment(other, second.user.labeler_id).task_id in task_ids
    first.open(f"/work/{item}/rank")
    assert "Your hold on this item has ended" in first.page.text
    first.page = first.client.post(f"/work/{item}/rank", data=form)
    assert "as a second opinion" in first.page.text
    assert len(list(workspace.store.rankings())) == 2


def test_two_tabs_keep_both_drafts_and_never_overwrite(app, workspace, labeler):
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    one = fields_of(labeler.open(f"/work/{item}").text)
    two = fields_of(labeler.open(f"/work/{item}").text)
    headers = {"hx-request": "true"}
    saved = labeler.client.post(f"/work/{item}/draft/demonstration", data=one | {"answer": "from one"}, headers=headers)
    assert "Open in two tabs" not in saved.text
    saved = labeler.client.post(f"/work/{item}/draft/demonstration", data=two | {"answer": "from two"}, headers=headers)
    assert "Open in two tabs" in saved.text
    assert app.state.labelling.draft(item, one["tab"]).fields == {"answer": "from one"}
    assert app.state.labelling.draft(item).fields == {"answer": "from two"}
    labeler.page = labeler.client.post(f"/work/{item}", data=two | {"answer": "submitted in two"})
    assert labeler.path == "/home"
    refused = labeler.client.post(f"/work/{item}", data=one | {"answer": "submitted in one"})
    assert refused.status_code == 409
    assert "Nothing was overwritten" in refused.text
    ((made, _),) = workspace.store.demonstrations()
    assert made.text == "submitted in two"
    assert app.state.labelling.draft(item).fields == {"answer": "submitted in one"}


def test_saves_that_arrive_late_change_nothing(app, workspace, labeler):
    queue(app, "demonstration")
    item = begin(labeler, "demonstration")
    form, address = fields_of(labeler.page.text), f"/work/{item}/draft/demonstration"
    labeler.client.post(address, data=form | {"answer": "second", "sequence": "2"})
    labeler.client.post(address, data=form | {"answer": "first", "sequence": "1"})
    assert app.state.labelling.draft(item).fields == {"answer": "second"}
    labeler.client.post(f"/work/{item}", data=form | {"answer": "third", "sequence": "4"})
    labeler.client.post(address, data=form | {"answer": "second and a half", "sequence": "3"})
    assert app.state.labelling.draft(item).fields == {}
    labeler.open(f"/work/{item}")
    assert fields_of(labeler.page.text)["answer"] == "third"


def test_time_on_task_follows_the_server_clock_whatever_the_page_says(timed, workspace, clock):
    queue(timed, "demonstration")
    person = join(timed)
    item = begin(person, "demonstration")
    form = fields_of(person.page.text)
    clock.time += 100
    person.client.post(f"/work/{item}/draft/demonstration", data=form | {"answer": "x", "spent": "40"})
    clock.time += 50
    person.client.post(f"/work/{item}/draft/demonstration", data=form | {"answer": "x", "spent": "9999"})
    clock.time -= 500  # a clock set back counts nothing, and loses nothing
    person.client.post(f"/work/{item}/draft/demonstration", data=form | {"answer": "x", "spent": "nan"})
    person.client.post(f"/work/{item}", data=form | {"answer": "done", "spent": "-3"})
    ((made, _),) = workspace.store.demonstrations()
    assert made.seconds == 90.0


def test_nobody_reaches_the_work_of_another_or_of_the_other_cohort(app):
    held_out = join(app, cohort="held-out")
    training = join(app)
    theirs = rank_queue(app, cohort="held-out")
    item = begin(held_out, "rank")
    training.open("/home")
    assert "Nothing is waiting" in training.page.text
    token = fields_of(training.open("/settings").text, "/settings")["token"]
    for more in ({}, {"queue": theirs.id}):
        assert "none" in str(training.client.post("/work/start/rank", data={"token": token} | more).url)
    for path in ("", "/rate/A", "/rank", "/skip", "/report"):
        training.open(f"/work/{item}{path}", 404)
    posts = ("", "/rate/A", "/rank", "/skip", "/draft/rank", "/draft/rate/A")
    for path in posts:
        sent = training.client.post(f"/work/{item}{path}", data={"token": token, "A.quality": "1", "key": "k"})
        assert sent.status_code == 404, path
    rate_all(held_out)
    ranks(held_out, item, "11111")
    submission = app.state.labelling.standing(item).id
    assert training.client.post(f"/history/{submission}/take-back", data={"token": token}).status_code == 404


def test_subjects_to_avoid_are_not_offered(app, workspace):
    from preceptor.types import Completion, Prompt

    prompt = Prompt.of("Something violent", user_id="v", meta={"subjects": ["violence"]})
    workspace.store.add_prompts([prompt])
    workspace.store.add_completions([Completion.of(prompt.id, "only", f"text {n}", index=n) for n in range(4)])
    rank_queue(app, models=("only",))
    person = join(app)
    page = person.open("/settings")
    person.client.post("/settings", data=fields_of(page.text, "/settings") | {"avoid": "violence"})
    person.open("/home")
    person.send("/work/start/rank")
    assert "note=none" in str(person.page.url)
    person.client.post("/settings", data=fields_of(person.open("/settings").text, "/settings") | {"avoid": ""})
    assert begin(person, "rank")


def test_ratings_of_all_questions_arrive(app, workspace, labeler):
    rank_queue(app, k_max=4, k_min=4)
    item = begin(labeler, "rank")
    for place, letter in enumerate("ABCD"):
        yes = FLAGS[place]
        answers = {f"{letter}.{flag}": "yes" if flag == yes else "no" for flag in FLAGS}
        labeler.send(f"/work/{item}/rate/{letter}", **answers, **{f"{letter}.quality": str(place + 1)})
    ranks(labeler, item, "1111")
    found = app.state.labelling.assignment(item, labeler.user.labeler_id)
    by_completion = {rating.completion_id: rating for rating in workspace.store.ratings()}
    for place, completion in enumerate(found.completions):
        rating = by_completion[completion.id]
        assert rating.quality == place + 1
        assert rating.flags == {flag: flag == FLAGS[place] for flag in FLAGS}
