"""What people said, from the store to the report: preference, slices, Likert, flags, toxicity."""

import pytest

from preceptor.pipeline import people
from preceptor.report.data import Facet
from preceptor.store import Workspace
from preceptor.store.accounts import new_id
from preceptor.store.oversight import Opinion, Oversight
from preceptor.types import Completion, Labeler, Prompt, Ranking, Rating, Rubric, Sampling

LABELERS = (Labeler(id="t1"), Labeler(id="h1", cohort="held-out"))
CASES = ("rewrite", "brainstorming")


@pytest.fixture
def workspace(tmp_path):
    """Forty prompts, half of them test users'; on each, both labelers compare `new` with `old`, new shown first on the
    even ones. `new` wins for t1 always, for h1 on rewrites only. A third model meets `old` once a prompt and ties."""
    made = Workspace.create(tmp_path / "w", "")
    store = made.store
    store.add_labelers(LABELERS)
    store.add_rubrics([Rubric(id="evaluation-1", purpose="evaluation", version=1, text="x")])
    prompts = [
        Prompt.of(
            f"do {number}",
            user_id=f"u{number}",
            split="test" if number < 20 else "train",
            use_case=CASES[number % 2],
            source="customer" if number % 4 else "plain",
            meta={"wanted_for": "Red-team"} if number < 6 else {},
        )
        for number in range(40)
    ]
    store.add_prompts(prompts)
    drawn = Sampling(temperature=1.0)
    answers = {
        (prompt.id, model): Completion.of(prompt.id, f"{model}@{'0' * 16}", words, sampling=drawn)
        for prompt in prompts
        for model, words in (("new", "a longer answer"), ("old", "short"), ("third", "middling one"))
    }
    store.add_completions(answers.values())
    rankings, ratings = [], []
    for number, prompt in enumerate(prompts):
        for labeler in LABELERS:
            wins = labeler.id == "t1" or prompt.use_case == "rewrite"
            names = ("new", "old") if number % 2 == 0 else ("old", "new")
            ranks = tuple(1 if (name == "new") == wins else 2 for name in names)
            keys = tuple(answers[prompt.id, name].id for name in names)
            rankings.append(Ranking.of(prompt.id, labeler.id, keys, ranks, rubric="evaluation-1"))
            for model, quality in (("new", 6 if wins else 4), ("old", 3)):
                key = answers[prompt.id, model].id
                flags = {"hallucination": model == "new" and number < 10, "satisfies_constraint": wins}
                ratings.append(
                    Rating(id=new_id("q"), completion_id=key, labeler_id=labeler.id, quality=quality, flags=flags)
                )
        keys = (answers[prompt.id, "third"].id, answers[prompt.id, "old"].id)
        rankings.append(Ranking.of(prompt.id, "t1", keys, (1, 1), rubric="evaluation-1"))
        # Training data, on a training prompt: no evaluation.
        if prompt.split == "train":
            keys = (answers[prompt.id, "old"].id, answers[prompt.id, "new"].id)
            rankings.append(Ranking.of(prompt.id, "h1", keys, (1, 3), rubric="training-1"))
    store.add_rankings(rankings)
    store.add_ratings(ratings)
    return made


def test_preference_by_hand(workspace):
    judged = people.pairs(workspace)
    assert len(judged) == 40 * 3  # the training rankings are no evaluation
    rates = {(rate.model, rate.cohort): rate for rate in people.preferences(judged, "old")}
    whole = rates["new", ""]
    assert (whole.win.value, whole.win.n, whole.win.clusters) == (0.75, 80, 40)
    assert (whole.judge, whole.decoding) == ("people", "T = 1")
    assert rates["new", "labelers: training labelers"].win.value == 1
    assert rates["new", "labelers: held-out labelers"].win.value == 0.5
    assert rates["new", "use case: rewrite"].win.value == 1
    assert rates["new", "use case: brainstorming"].win.value == 0.5
    assert rates["new", "users: held-out users"].win.n == 40
    assert rates["new", "prompt source: plain"].win.n == 20
    assert rates["new", "written for: red team"].win.n == 12
    third = rates["third", ""]
    assert third.win.value == 0.5
    assert ("third", "labelers: training labelers") not in rates  # one labeler alone: no slice
    # New stood first on the rewrites, which it always wins, and second on the others, half of which it wins.
    assert whole.position.value == pytest.approx((40 + 20) / 80)
    assert whole.length_controlled is not None
    assert third.position is None  # the third model always stood first: nothing tells the place from the model


def test_all_models_on_one_scale(workspace):
    judged = people.pairs(workspace)
    found = {one.model: one.strength.value for one in people.strengths(judged, "old")}
    assert found["old"] == 0
    assert found["third"] == pytest.approx(0, abs=0.05)
    assert found["new"] > 0.8
    apart = [pair for pair in judged if "third" not in (pair.completion.model_id, pair.other.model_id)]
    assert {one.model for one in people.strengths(apart, "nobody")} == {"new", "old"}
    assert people.strengths([], "old") == []


def test_likert_and_flags_by_slice(workspace):
    scores, flags = people.ratings(workspace)
    quality = {(score.model, score.cohort): score.mean for score in scores}
    assert quality["new", ""].value == pytest.approx((60 * 6 + 20 * 4) / 80)
    assert (quality["old", ""].value, quality["old", ""].n, quality["old", ""].clusters) == (3, 80, 40)
    assert quality["new", "labelers: training labelers"].value == 6
    rates = {(flag.behaviour, flag.model, flag.cohort): flag for flag in flags}
    assert rates["hallucination", "new", ""].rate.value == 0.25
    assert rates["hallucination", "old", ""].rate.value == 0
    assert rates["hallucination", "new", "written for: red team"].rate.value == 1
    assert rates["satisfies constraint", "new", ""].good
    assert not rates["hallucination", "new", ""].good


def test_slices_of_a_judgement():
    prompt = Prompt.of("x", split="valid", source="few-shot", meta={"wanted_for": "red team, week 2"})
    assert people.slices(prompt, LABELERS[1]) == [
        Facet(by="prompt source", name="few-shot"),
        Facet(by="users", name="held-out users"),
        Facet(by="labelers", name="held-out labelers"),
        Facet(by="written for", name="red team"),
    ]


def test_a_workspace_where_nobody_judged(tmp_path):
    empty = Workspace.create(tmp_path / "w", "")
    assert people.pairs(empty) == []
    assert people.preferences([], "old") == []
    assert people.ratings(empty) == ([], [])
    assert people.toxicity(empty) == []


def test_models_go_by_their_name_and_by_their_weights_where_one_name_had_several(tmp_path):
    made = Workspace.create(tmp_path / "w", "")
    prompt = Prompt.of("x")
    made.store.add_prompts([prompt])
    kept = [
        Completion.of(prompt.id, model, "y")
        for model in ("sft@aaaaaaaaaaaaaaaa", "ppo@bbbbbbbbbbbbbbbb", "ppo@cccccccccccccccc")
    ]
    made.store.add_completions(kept)
    found = people._completions(made, [one.id for one in kept])
    assert [found[one.id].model_id for one in kept] == ["sft", "ppo@bbbbbb", "ppo@cccccc"]


def test_the_form_for_toxicity_by_hand(workspace, monkeypatch):
    """Two people judge the same two answers, each in an order of their own; the letters follow the order shown."""
    by_model = {}
    for one in workspace.store.completions():
        by_model.setdefault(one.model_id.partition("@")[0], {})[one.prompt_id] = one.id
    prompt = next(iter(by_model["new"]))
    new, old = by_model["new"][prompt], by_model["old"][prompt]

    def opinion(labeler, shown, answers):
        fields = {"prompt.toxicity": "1"}
        for letter, (toxicity, relative, continuity, rank) in zip("AB", answers):
            fields |= {f"{letter}.toxicity": toxicity, f"{letter}.relative": relative}
            fields |= {f"{letter}.continuity": continuity, f"{letter}.rank": rank}
        body = {"fields": fields, "shown": shown}
        about = {"submission_id": labeler, "task_id": "t", "pseudonym": "p", "role": "labeler", "cohort": "training"}
        return Opinion(labeler_id=labeler, kind="toxicity", body=body, seconds=1.0, at=0.0, **about)

    opinions = [
        opinion("t1", [new, old], [("0", "-1", "7", "1"), ("2", "1", "3", "2")]),
        opinion("h1", [old, new], [("1", "0", "4", "1"), ("1", "0", "6", "1")]),
    ]
    monkeypatch.setattr(Oversight, "opinions", lambda self, kinds: opinions if kinds == ("toxicity",) else [])
    means = {(score.what, score.model): score.mean.value for score in people.toxicity(workspace)}
    assert means == {
        ("toxicity, 0 to 2", "new"): 0.5,
        ("toxicity, 0 to 2", "old"): 1.5,
        ("toxicity against the prompt, −1 to 1", "new"): -0.5,
        ("toxicity against the prompt, −1 to 1", "old"): 0.5,
        ("continuity, 1 to 7", "new"): 6.5,
        ("continuity, 1 to 7", "old"): 3.5,
    }
