"""What an import takes, knows, skips and says."""

import json

import zstandard

from preceptor.intake.export import count_pairs, export_own, export_pairs
from preceptor.intake.importing import estimated_tokens, import_demonstrations, import_prompts, import_rankings
from preceptor.intake.releases import freeze, read_release
from preceptor.store import Workspace
from preceptor.types import Completion, Demonstration, Labeler, Message, Prompt, Ranking, Rubric, Sampling


def test_importing_twice_adds_nothing(workspace, write):
    rows = [{"prompt": f"Say the number {n}.", "text": str(n), "labeler_id": f"l{n % 3}"} for n in range(1200)]
    path = write("a.jsonl.gz", rows)
    first = import_demonstrations(workspace, [path])
    counts = workspace.store.counts()
    again = import_demonstrations(workspace, [path])
    assert (first.taken, first.known, first.prompts, first.labelers) == (1200, 0, 1200, 3)
    assert (again.taken, again.known, again.prompts, again.labelers) == (0, 1200, 0, 0)
    assert workspace.store.counts() == counts


def test_labelers_models_and_ties_of_a_ranking(workspace, write):
    rows = [
        {
            "prompt": "Hi.",
            "answers": ["a", "b", "a"],
            "ranks": [2, 1, 2],
            "labeler_id": "ana",
            "models": ["m", "n", "m"],
        },
        {"prompt": "Ho.", "answers": ["a", "b"], "ranks": [1, 1]},
    ]
    report = import_rankings(workspace, [write("votes.jsonl", rows)])
    assert (report.taken, report.completions, report.labelers) == (2, 5, 2)
    found = {prompt.text: ranking for ranking, prompt in workspace.store.rankings()}
    assert found["Hi."].ranks == (2, 1, 2)
    assert len(set(found["Hi."].completion_ids)) == 3
    assert found["Ho."].labeler_id == "imported:votes"
    models = {completion.id: completion.model_id for completion in workspace.store.completions()}
    assert [models[key] for key in found["Hi."].completion_ids] == ["m", "n", "m"]
    assert {models[key] for key in found["Ho."].completion_ids} == {"imported"}


def test_a_prompt_known_from_another_file_is_shared(workspace, write):
    import_prompts(workspace, [write("p.jsonl", [{"prompt": "Hi.", "use_case": "chat"}])])
    report = import_demonstrations(workspace, [write("d.jsonl", [{"prompt": "Hi.", "text": "Hello."}])])
    assert (report.taken, report.prompts) == (1, 0)
    assert [prompt.use_case for _, prompt in workspace.store.demonstrations()] == ["chat"]


def test_skips_are_counted_with_their_first_row(workspace, write):
    long = "word " * 1000
    rows = [
        {"prompt": "Hi."},
        {"prompt": "  "},
        {"prompt": long},
        {"prompt": "a\0b"},
        {"prompt": "\ud800"},
        {"prompt": ""},
    ]
    path = write("p.jsonl", rows)
    report = import_prompts(workspace, [path])
    assert (report.rows, report.taken) == (6, 1)
    assert {reason: (skip.count, skip.row) for reason, skip in report.skipped.items()} == {
        "the prompt is empty": (2, 2),
        "the prompt is longer than 1000 tokens (estimated)": (1, 3),
        "the text has a NUL character": (1, 4),
        "the text has half of a surrogate pair": (1, 5),
    }
    assert f"skipped 2: the prompt is empty (first: {path} row 2)" in report.lines()
    assert json.loads(json.dumps(report.to_json()))["skipped"]["the prompt is empty"]["count"] == 2


def test_the_length_rule_at_its_edge(workspace, write):
    rows = [{"prompt": "x" * 4000}, {"prompt": "y" * 4001}]
    assert import_prompts(workspace, [write("p.jsonl", rows)]).taken == 1
    assert [estimated_tokens(prompt) for prompt in workspace.store.prompts()] == [1000]
    assert import_prompts(workspace, [write("p.jsonl", rows)], max_tokens=None).taken == 1


def test_the_cap_of_a_user_holds_over_imports(workspace, write):
    rows = [{"prompt": f"Say {n} now.", "user_id": "u"} for n in range(150)]
    more = [{"prompt": f"Write {n} again.", "user_id": "u"} for n in range(100)]
    assert import_prompts(workspace, [write("a.jsonl", rows)]).taken == 150
    report = import_prompts(workspace, [write("b.jsonl", more)])
    assert report.taken == 50
    assert report.skipped["its user has 200 prompts already"].count == 50
    assert import_prompts(workspace, [write("a.jsonl", rows)]).known == 150


def test_duplicates_are_found_within_and_over_imports(workspace, write):
    prefix = "Translate the following text to French, and keep every name as it is. " * 4
    body = " ".join(f"word{n}" for n in range(300))
    rows = [{"prompt": prefix + "one"}, {"prompt": prefix + "two"}, {"prompt": "Start. " + body}]
    assert import_prompts(workspace, [write("a.jsonl", rows)]).skipped["begins like another prompt"].row == 2
    report = import_prompts(workspace, [write("b.jsonl", [{"prompt": "Begin. " + body}, {"prompt": prefix + "three"}])])
    assert report.taken == 0
    assert {reason: skip.row for reason, skip in report.skipped.items()} == {
        "nearly the same as another prompt": 1,
        "begins like another prompt": 2,
    }


def test_users_stand_on_one_side(workspace, write):
    rows = [{"prompt": f"Say {n} for {user}.", "user_id": f"user{user}"} for user in range(100) for n in range(3)]
    import_prompts(workspace, [write("a.jsonl", rows)])
    sides = {}
    for prompt in workspace.store.prompts():
        sides.setdefault(prompt.user_id, set()).add(prompt.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {side.pop() for side in sides.values()} == {"train", "valid", "test"}


def test_the_same_rows_however_they_are_packed(tmp_path, write):
    rows = [{"instruction": f"Say {n} [in words].", "input": "", "output": 'é " ] }' * n} for n in range(1, 60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    packed = {
        "a.jsonl": lines,
        "b.json": json.dumps(rows),
        "c.json": json.dumps(rows, indent=2),
        "d.jsonl.gz": lines,
        "e.dat": zstandard.compress(lines.encode()[:100]) + zstandard.compress(lines.encode()[100:]),
        "f.jsonl": "\ufeff" + lines.replace("\n", "\r\n\r\n"),
        "g.json": "\n".join(json.dumps(row, indent=1) for row in rows),
    }
    found = {}
    for name, content in packed.items():
        workspace = Workspace.create(tmp_path / f"w-{name}")
        import_demonstrations(workspace, [write(name, content)], map={"prompt": "instruction", "text": "output"})
        found[name] = [(prompt.text, made.text) for made, prompt in workspace.store.demonstrations()]
        found[name].sort()
        workspace.store.close()
    assert len(found["a.jsonl"]) == 59
    assert all(value == found["a.jsonl"] for value in found.values())


def test_prompts_note_their_language(workspace, write):
    rows = [
        {"prompt": "What is the name of the man that you saw?"},
        {"prompt": "Was ist der Name von dem Mann und wie ist er?"},
    ]
    import_prompts(workspace, [write("a.jsonl", rows)])
    assert sorted(prompt.meta["language"] for prompt in workspace.store.prompts()) == ["de", "en"]


def test_training_text_has_no_personal_data(workspace, write):
    rows = [{"prompt": "Write to ana@example.org.", "text": "I called +44 20 7946 0958.", "split": "train"}]
    import_demonstrations(workspace, [write("a.jsonl", rows)])
    row = next(read_release(freeze(workspace, "demonstrations")))
    assert row["messages"][0]["content"] == "Write to [email]."
    assert row["text"] == "I called [phone]."
    row = next(read_release(freeze(workspace, "demonstrations", mask_personal_data=False)))
    assert row["text"] == "I called +44 20 7946 0958."


def everything(workspace):
    store = workspace.store
    return (
        list(store.prompts()),
        sorted(store.labelers(), key=lambda labeler: labeler.id),
        list(store.completions()),
        [made for made, _ in store.demonstrations()],
        [made for made, _ in store.rankings()],
    )


def full(workspace):
    messages = tuple(Message(role=role, content=f"the {role}'s") for role in ("system", "user", "assistant", "user"))
    prompt = Prompt.chat(messages, user_id="u", split="test", use_case="chat", source="few-shot", meta={"a": [1, None]})
    other = Prompt(id="mine", messages=(Message(role="user", content="Ωmega\u2028\n"),), consent=False)
    store = workspace.store
    store.add_prompts([prompt, other])
    store.add_labelers(
        [Labeler(id="x", name="X", cohort="held-out", screening={"s": 0.5}), Labeler(id="y", simulated=True)]
    )
    sampling = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=7, seed=3)
    answers = [Completion.of(prompt.id, "m", f" {n}\n", sampling=sampling, finish_reason="length") for n in range(4)]
    store.add_completions(answers)
    ids = tuple(answer.id for answer in answers)
    store.add_rankings([Ranking.of(prompt.id, "x", ids, (2, 1, 2, 4), rubric="r2", seconds=1.25)])
    store.add_demonstrations([Demonstration.of(other.id, "y", " text ", seconds=3.0)])


def test_our_own_export_imports_without_loss(tmp_path, workspace):
    full(workspace)
    other = Workspace.create(tmp_path / "other")
    for kind, importer in (
        ("rankings", import_rankings),
        ("demonstrations", import_demonstrations),
        ("prompts", import_prompts),
    ):
        path = tmp_path / f"{kind}.jsonl"
        export_own(workspace, kind, path)
        importer(other, [path])
    assert everything(other) == everything(workspace)
    for kind in ("rankings", "demonstrations", "prompts"):
        export_own(other, kind, tmp_path / "again.jsonl")
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / f"{kind}.jsonl").read_bytes()
    other.store.close()


def test_pairs_for_trl_hold_what_a_release_for_training_holds(tmp_path, workspace):
    """A model is trained on them: no held-out labeler, no guide for evaluation, no consent missing, no address."""
    store = workspace.store
    store.add_labelers([Labeler(id="in"), Labeler(id="out", cohort="held-out")])
    store.add_rubrics([Rubric(id="r-7", purpose="evaluation", version=7, text="Truth first.")])
    for consent in (True, False):
        text = f"Write to ann@example.org about {consent}."
        asked = (Message(role="user", content=text),)
        prompt = Prompt(id=f"p{consent}", messages=asked, consent=consent, split="train")
        answers = [Completion.of(prompt.id, "m", f"ann@example.org {n}", sampling=Sampling()) for n in range(2)]
        store.add_prompts([prompt])
        store.add_completions(answers)
        ids = tuple(answer.id for answer in answers)
        store.add_rankings([Ranking.of(prompt.id, "in", ids, (2, 1)), Ranking.of(prompt.id, "out", ids, (1, 2))])
        store.add_rankings([Ranking.of(prompt.id, "in", ids, (1, 2), rubric="r-7")])
    path = tmp_path / "pairs.jsonl"
    assert export_pairs(workspace, path, conversational=False) == count_pairs(workspace) == 1
    (row,) = (json.loads(line) for line in path.read_text().splitlines())
    assert row["chosen"].endswith(" 1")
    assert row["rejected"].endswith(" 0")
    assert "True" in row["prompt"]
    assert "@example.org" not in path.read_text()


def test_pairs_for_trl_import_again(tmp_path, workspace):
    full(workspace)
    (ranking, _), *_ = workspace.store.rankings()
    workspace.store.add_rankings([Ranking.of(ranking.prompt_id, "y", ranking.completion_ids, ranking.ranks)])
    for conversational in (True, False):
        path = tmp_path / "pairs.jsonl"
        assert (
            export_pairs(workspace, path, split="test", conversational=conversational) == 5
        )  # of 6 pairs, one is a tie
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        assert set(rows[0]) == {"prompt", "chosen", "rejected", "ranking_id"}
        other = Workspace.create(tmp_path / f"other-{conversational}")
        assert import_rankings(other, [path]).taken == 5
        if conversational:
            assert {prompt.messages for _, prompt in other.store.rankings()} == {
                prompt.messages for _, prompt in workspace.store.rankings()
            }
        other.store.close()
