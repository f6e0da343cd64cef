"""What researchers and admins do: queues, screening, review, profiles, exports, deleting a user."""

import json
import re
from dataclasses import replace

import pytest
from persons import PASSWORD, RATING, Person, attack_a_model, fields_of, join, rank_next, rank_queue, rate_all

from preceptor.errors import UserError
from preceptor.intake.export import export_own
from preceptor.intake.importing import import_prompts, import_rankings
from preceptor.intake.releases import freeze, read_release
from preceptor.labelling.erasure import delete_user
from preceptor.labelling.events import export_events, import_events
from preceptor.statistics.agreement import flag_votes, gwet_ac1, kendall_tau_b, kendall_w, pairwise_agreement
from preceptor.statistics.flags import flag_reliability
from preceptor.statistics.reliability import bradley_terry_with_reliability
from preceptor.store import Workspace
from preceptor.store.events import events
from preceptor.store.queues import Queue
from preceptor.store.schema import metadata


def test_the_agreement_page_shows_what_the_statistics_say(app, workspace, researcher):
    rank_queue(app, overlap_share=1.0, overlap_labels=3)
    for ranks in ("12345", "54321", "12233"):
        person = join(app)
        for _ in range(3):
            rank_next(person, ranks)
    found = pairwise_agreement([ranking for ranking, _ in workspace.store.rankings()], draws=500)
    page = researcher.open("/agreement").text
    assert f"{100 * found.value:.1f} %" in page
    assert f"{found.pairs} pairs" in page
    assert "Training cohort" in page
    researcher.open("/round")
    assert f"{100 * found.value:.1f} %" in researcher.page.text


def test_coefficients_and_reliability_are_on_the_page(app, workspace, researcher):
    rank_queue(app, overlap_share=1.0, overlap_labels=4)
    people = [join(app) for _ in range(3)] + [join(app, cohort="held-out", name="Held")]
    app.state.queues.create(replace(app.state.queues.queues()[0], id="w_h", cohort="held-out"))
    for person, ranks in zip(people, ("12345", "12354", "54321", "12345")):
        for number in range(4):
            person.open("/home")
            person.send("/work/start/rank")
            item = rate_all(person, flags={"fails_task": "yes" if number < 2 else "no"})
            person.send(f"/work/{item}/rank", **{f"{x}.rank": r for x, r in zip("ABCDE", ranks)})
    page = researcher.open("/agreement").text
    rankings = [ranking for ranking, _ in workspace.store.rankings()]
    training = [r for r in rankings if r.labeler_id != people[3].user.labeler_id]
    for measure in (kendall_tau_b, kendall_w):
        for group in (rankings, training):
            found = measure(group, draws=500)
            assert f"{found.value:.2f}".replace("-", "−") + " (" in page
    model = bradley_terry_with_reliability(rankings)
    for person in people:
        own = model.reliability[person.user.labeler_id]
        assert f"{own.low:.2f}–{own.high:.2f}, n = {own.n}" in page
    flags = flag_reliability(list(workspace.store.ratings()))
    own = flags[people[0].user.labeler_id]
    assert f"{100 * own.found.low:.0f}–{100 * own.found.high:.0f}, n = {own.found.n}" in page
    ratings = list(workspace.store.ratings())
    trained = [rating for rating in ratings if rating.labeler_id != people[3].user.labeler_id]
    for group, part in (("Training cohort", trained), ("Guide training-1", ratings), ("Use case not named", ratings)):
        found = gwet_ac1(flag_votes(part, "fails_task"), draws=500)
        table = page.split(f"<summary>{group}</summary>")[1].split("</details>")[0]
        assert f"{found.value:.2f} ".replace("-", "−") + "<span" in table, group
    assert "<summary>Held-out cohort</summary>" in page
    profile = researcher.open(f"/labelers/{people[2].user.labeler_id}").text
    assert f"{model.reliability[people[2].user.labeler_id].value:.2f} " in profile


def test_a_researcher_settles_a_disagreement_and_nothing_is_overwritten(app, workspace, researcher):
    rank_queue(app, overlap_share=1.0, k_max=4)
    people = [join(app) for _ in range(2)]
    for person, ranks in zip(people, ("1234", "4321")):
        rank_next(person, ranks)
    researcher.open("/review")
    task = next(iter(app.state.oversight.several_opinions()))
    researcher.open(f"/review/{task}")
    researcher.send(f"/review/{task}/settle")
    item = rate_all(researcher)
    researcher.send(f"/work/{item}/rank", **{f"{letter}.rank": "1" for letter in "ABCD"})
    assert len(list(workspace.store.rankings())) == 3
    assert "seen by a researcher" in researcher.open("/review").text


def test_a_reported_item_waits_for_a_researcher(app, researcher, labeler):
    rank_queue(app)
    labeler.open("/home")
    labeler.send("/work/start/rank")
    item = labeler.item
    labeler.open(f"/work/{item}/report")
    labeler.send(f"/work/{item}/report", reason="other", text="not for us")
    assert "not for us" in researcher.open("/review").text
    task = app.state.labelling.assignment(item, labeler.user.labeler_id).task_id
    researcher.send(f"/review/{task}/reopen", decision="open")
    assert app.state.queues.halted() == []


def test_queue_forms_refuse_in_words(app, researcher):
    for kind, changes, words in (
        ("rank", {"name": "x", "k_max": "12"}, "K goes from 4 to 9"),
        ("rank", {"name": " "}, "has no name"),
        ("compare", {"name": "x", "model_a": "sft", "model_b": "sft"}, "two different models"),
        ("rank", {"name": "x", "overlap": "150"}, "0 to 100 %"),
    ):
        researcher.open(f"/queues/new?kind={kind}")
        researcher.send("/queues", 409, **changes)
        assert words in researcher.page.text
    researcher.open("/queues/new?kind=demonstration")
    researcher.send("/queues", name="Write")
    assert researcher.path.startswith("/queues/w_")
    researcher.send(f"{researcher.path}/fill")
    assert "0 items added" in researcher.page.text
    assert app.state.accounts.trail(1)[0]["action"] == "items added"
    researcher.send(f"{researcher.path}/state", state="closed")
    assert "Open the queue" in researcher.page.text


def test_screening_by_four_criteria(app, workspace, researcher):
    researcher.open("/screening")
    researcher.send("/screening", name="June", topics="health, law", split="any", flags="90")
    address = researcher.path
    screening = address.split("/")[-1]
    candidate = join(app, screening=screening)
    candidate.open("/home")
    form = fields_of(candidate.page.text, f"/trial/{screening}/topics")
    candidate.client.post(f"/trial/{screening}/topics", data=form | {"topic": "health"})
    rank, write = [queue.id for queue in app.state.queues.queues(screening=True)]

    def answer(person, flags, ranks):
        item = person.item
        for letter in "ABCDE":
            given = {f"{letter}.{name}": value for name, value in (RATING | flags).items()}
            person.send(f"/work/{item}/rate/{letter}", **given, **{f"{letter}.quality": "4"})
        shown = app.state.labelling.assignment(item, person.user.labeler_id).completions
        fixed = sorted(completion.id for completion in shown)
        given = {f"{letter}.rank": ranks[fixed.index(c.id)] for letter, c in zip("ABCDE", shown)}
        person.send(f"/work/{item}/rank", **given)

    researcher.open(f"/queues/{rank}")
    researcher.send(f"/queues/{rank}/answer")
    answer(researcher, {}, "12345")
    candidate.open("/home")
    candidate.send("/work/start/rank")
    answer(candidate, {"violent_content": "yes"}, "21345")
    candidate.open("/home")
    candidate.send("/work/start/demonstration")
    candidate.send(candidate.path, answer="My answer")
    assert not list(workspace.store.rankings())
    assert not list(workspace.store.demonstrations())

    researcher.open(address)
    (opinion,) = app.state.oversight.opinions(kinds=("demonstration",), screening_id=screening)
    researcher.send(f"{address}/score/{opinion.submission_id}", score="7")
    page = researcher.page.text
    assert "80 %" in page  # 4 of 5 flags the same, by hand
    assert "90 %" in page  # 9 of 10 pairs the same, by hand
    assert "7.0" in page
    assert "health" in page
    assert page.count(">below<") == 1  # the flags; a cut-off is soft: a person admits the candidate all the same
    researcher.send(f"{address}/decide/{candidate.user.labeler_id}", decision="admitted", note="good")
    assert app.state.accounts.user(candidate.user.id).state == "active"
    (kept,) = [found for found in workspace.store.labelers() if found.id == candidate.user.labeler_id]
    assert kept.screening == pytest.approx({"flags": 0.8, "rankings": 0.9, "demonstrations": 7.0})
    done = [(line["actor"], line["action"]) for line in app.state.accounts.trail(2)]
    assert done == [(researcher.user.id, "candidate admitted"), (researcher.user.id, "demonstration scored")]
    assert write


def test_guides_have_versions_that_labels_point_at(app, workspace, researcher, labeler):
    rank_queue(app)
    rank_next(labeler)
    researcher.open("/rubrics")
    researcher.send("/rubrics/training", text="New text", change="Layout alone is a tie.")
    assert researcher.path == "/guide/training-2"
    assert "Layout alone is a tie." in labeler.open("/home").text
    ((ranking, _),) = workspace.store.rankings()
    assert ranking.rubric == "training-1"


def test_exports_hold_no_names_and_read_back(app, workspace, researcher):
    rank_queue(app, k_max=4)
    person = join(app, name="Zebulon Quirk")
    rank_next(person, "1223")
    lines = {}
    for name in ("events", "rankings", "pairs", "demonstrations", "prompts", "ratings", "toxicity"):
        text = researcher.open(f"/export/{name}.jsonl").text
        assert "Zebulon" not in text
        assert person.email not in text
        lines[name] = [json.loads(line) for line in text.splitlines()]
    assert len(lines["pairs"]) == 5  # of 6 pairs one is tied
    assert lines["rankings"][0]["ranks"] == [1, 2, 2, 3]
    assert len(lines["ratings"]) == 4
    assert lines["events"][0]["body"]["fields"]["D.rank"] == "3"


def test_the_raw_record_comes_back_without_loss(app, workspace, tmp_path):
    """Versions, an undone one, a skip and a report, a comparison, a written prompt; out, in, and out again."""
    rank_queue(app, k_max=4)
    state, person = app.state, join(app)
    for kind, more in (("demonstration", {}), ("compare", {"models": ("sft", "ppo")}), ("prompt", {})):
        state.queues.create(Queue(id=f"w_{kind}", name=kind, kind=kind, rubric="training-1", cohort="any", **more))
    first, second = rank_next(person, "1223"), rank_next(person, "4321")
    person.open(f"/work/{first}/rank")
    person.send(f"/work/{first}/rank", **{f"{letter}.rank": "1" for letter in "ABCD"})  # a second version
    undone = state.labelling.standing(second).id
    person.open("/history")
    person.send(f"/history/{undone}/take-back")
    for kind, answer in (
        ("demonstration", {"answer": "So."}),
        ("compare", {"verdict": "tie"}),
        ("prompt", {"source": "plain", "text": "Ask me."}),
    ):
        person.open("/home")
        person.send(f"/work/start/{kind}")
        person.send(person.path, **answer, then="")
    person.open("/home")
    person.send("/work/start/demonstration")
    skipped = person.item
    person.open(f"/work/{skipped}/skip")
    person.send(f"/work/{skipped}/skip", reason="other", text="no")
    files = {name: tmp_path / f"{name}.jsonl" for name in ("events", "prompts", "rankings", "again")}
    assert export_events(workspace, files["events"]) == 7
    for kind in ("prompts", "rankings"):
        export_own(workspace, kind, files[kind])
    other = Workspace.create(tmp_path / "other")
    with pytest.raises(UserError, match=r"row 1: the prompt '\w+' is not in this workspace"):
        import_events(other, [files["events"]])
    import_prompts(other, [files["prompts"]], cap=None, common_prefix=False, near_duplicates=None)
    import_rankings(other, [files["rankings"]])
    other.store.add_completions(workspace.store.completions())  # those of the undone item were not exported
    assert import_events(other, [files["events"]]).new == 7
    assert import_events(other, [files["events"]]).known == 7
    export_events(other, files["again"])
    assert files["again"].read_bytes() == files["events"].read_bytes()
    for read in ("ratings", "rankings", "demonstrations", "prompts"):
        here, there = (list(getattr(space.store, read)()) for space in (workspace, other))
        assert there == here
        assert there
    other.store.close()


def test_profile_and_screen_pages(app, researcher):
    rank_queue(app, overlap_share=1.0, overlap_labels=3)
    people = [join(app) for _ in range(2)]
    for person in people:
        for _ in range(3):
            rank_next(person, "12345")
    page = researcher.open(f"/labelers/{people[0].user.labeler_id}").text
    assert "Position" in page
    assert "100 (" in page  # the first shown always won
    researcher.open("/labelers/screen")


def test_only_admins_invite_researchers_and_held_out_people_are_not_screened(app, researcher, admin):
    researcher.open("/labelers")
    researcher.send("/labelers/invite", 409, role="admin")
    made = app.state.screenings.create("J", topics=[], cut_flags=0.75, cut_rankings=0.75, cut_demonstrations=6.0)
    admin.open("/labelers")
    admin.send("/labelers/invite", 409, cohort="held-out", screening=made)
    admin.open("/labelers")
    admin.send("/labelers/invite", cohort="held-out", email="x@example.org")
    link = re.search(r"http://testserver(/invite/[\w-]+)", admin.page.text).group(1)
    invited = Person(app)
    invited.open(link)
    invited.send(link, name="X", email="x@example.org", password=PASSWORD, agree="yes")
    assert app.state.accounts.user_by_email("x@example.org").cohort == "held-out"


def test_the_cohort_changes_only_before_the_first_item(app, researcher):
    rank_queue(app, cohort="any")
    person = join(app)
    address = f"/labelers/{person.user.labeler_id}"
    researcher.open(address)
    researcher.send(f"{address}/cohort", cohort="held-out")
    assert app.state.accounts.user(person.user.id).cohort == "held-out"
    person.open("/home")
    person.send("/work/start/rank")  # in hand, nothing submitted
    token = fields_of(researcher.open("/settings").text, "/settings")["token"]
    refused = researcher.client.post(f"{address}/cohort", data={"token": token, "cohort": "training"})
    assert refused.status_code == 409
    assert "the cohort stays" in refused.text
    assert app.state.accounts.user(person.user.id).cohort == "held-out"


def test_deleting_a_user_reaches_releases_and_says_so(app, workspace, admin, researcher):
    rank_queue(app, overlap_share=1.0, k_max=4)
    person = join(app)
    for _ in range(6):
        rank_next(person, "1234")
    with workspace.store.write() as connection:
        from preceptor.store.schema import prompts

        connection.execute(prompts.update().values(split="train"))
    release = freeze(workspace, "rankings")
    assert release.rows == 6
    folder = workspace.root / "models" / "rm"
    folder.mkdir()
    (folder / "preceptor.json").write_text(json.dumps({"name": "rm", "releases": {release.name: release.sha256}}))
    for name, parents in (("ppo", {"reward_model": "rm@f00"}), ("chat", {"model": "ppo@f00"}), ("other", {})):
        (workspace.root / "models" / name).mkdir()
        (workspace.root / "models" / name / "preceptor.json").write_text(json.dumps({"name": name, "parents": parents}))
    page = admin.open("/erase?who=c-1").text
    assert release.name in page
    assert "chat, ppo, rm<" in page  # what learned from it, and what was made from that
    admin.send("/erase", 409, again="c-2")
    admin.open("/erase?who=c-1")
    admin.send("/erase", again="c-1")
    assert "Deleted." in admin.page.text
    assert len(list(workspace.store.rankings())) == 5
    assert len(list(read_release(workspace.root / "releases" / f"{release.name}.jsonl"))) == 5
    (kept,) = workspace.store.releases()
    assert kept.rows == 5
    assert len(list(read_release(workspace.root / kept.path))) == 5
    assert "There is nothing of c-1" in admin.open("/erase?who=c-1").text
    assert len(list(events(app.state.workspace.store))) == 5
    researcher.open("/round")


def test_deleting_a_labeler_takes_what_they_wrote_and_leaves_what_they_judged(app, workspace):
    attack_a_model(workspace.store)
    person, said = join(app), "UNIQUEWOMBAT"
    for kind in ("prompt", "red-team"):
        app.state.queues.create(Queue(id=f"w_{kind}", name=kind, kind=kind, rubric="training-1", k_min=1))
    judged = {f"{letter}.{name}": value for letter in "AB" for name, value in RATING.items()}
    judged |= {"A.verdict": "refused", "B.verdict": "refused", "attack": f"{said} once more"}
    for kind, words in (("prompt", {"source": "plain", "text": f"{said}?"}), ("red-team", judged)):
        person.open("/home")
        person.send(f"/work/start/{kind}")
        person.send(person.path, **words, then="")
    person.open("/home")
    person.send("/work/start/prompt")
    person.send(person.path, text=f"{said}, half", action="draft")
    found = delete_user(workspace, person.user.labeler_id, "test")
    assert found.rows == {"prompts": 2, "tasks": 2, "assignments": 2, "submissions": 1, "drafts": 1}
    (kept,) = events(workspace.store)
    assert kept["kind"] == "red-team"
    assert {name: kept["body"]["fields"].get(name) for name in judged} == judged | {"attack": None}
    with workspace.store.read() as connection:
        everything = [connection.execute(table.select()).all() for table in metadata.sorted_tables]
    assert said not in str(everything)


class Bytes:
    """A chat format whose tokens are bytes, so that a batch can be read back as text."""

    def prompt(self, messages):
        return list("\n".join(message.content for message in messages).encode())

    def answers(self, texts):
        return [list(text.encode()) for text in texts]


def test_a_ranking_from_the_page_arrives_in_a_reward_model_batch_unchanged(app, workspace, labeler):
    data = pytest.importorskip("preceptor.training.data")
    rank_queue(app)
    item = rank_next(labeler, "31223")
    found = app.state.labelling.assignment(item, labeler.user.labeler_id)
    release = freeze(workspace, "rankings", split=found.prompt.split)
    (ranked,), left_out = data.read_rankings(release, Bytes(), 10_000)
    assert left_out == 0
    assert bytes(ranked.prompt).decode() == found.prompt.text
    assert [bytes(answer).decode() for answer in ranked.answers] == [c.text for c in found.completions]
    assert sorted(ranked.pairs) == [(1, 0), (1, 2), (1, 3), (1, 4), (2, 0), (2, 4), (3, 0), (3, 4)]
    assert ranked.labeler_id == labeler.user.labeler_id


def test_a_comparison_queue_says_what_it_can_tell(app, researcher):
    queue = Queue(id="w_c", name="c", kind="compare", rubric="evaluation-1", models=("sft", "ppo"), overlap_share=0)
    app.state.queues.create(queue)
    assert "57.2 points from 50 % can be told" in researcher.open("/queues/w_c").text  # 2.80158 * 0.5 / sqrt(6 items)
    rank_queue(app, id="w_r")
    assert "Smallest difference" not in researcher.open("/queues/w_r").text
