"""Exports of Argilla, Label Studio and OpenAssistant: what people submitted arrives, with ties, and nothing else."""

import gzip
import json
from pathlib import Path

import pytest

from preceptor.errors import UserError
from preceptor.intake.export import export_own
from preceptor.intake.formats import Skip
from preceptor.intake.importing import import_demonstrations, import_prompts, import_rankings
from preceptor.intake.readers import read_records
from preceptor.store import Workspace

TREES = Path(__file__).resolve().parents[2] / "../shared/data/oasst_en_trees/en_100_tree.jsonl.gz"
FIELDS = {"prompt": "Name a colour.", "response-1": "Blue.", "response-2": "Seven.", "response-3": "Green."}
ORDER = [
    {"rank": 1, "value": "response-3"},
    {"rank": 2, "value": "response-2"},
    {"rank": 1, "value": "response-1"},
]

ARGILLA_1 = {
    "fields": FIELDS,
    "responses": [
        {"user_id": "ana", "status": "submitted", "values": {"order": {"value": ORDER}, "why": {"value": ""}}},
        {"user_id": "bo", "status": "discarded", "values": {"order": {"value": ORDER}}},
        {"user_id": "cy", "status": "draft", "values": {"order": {"value": ORDER}}},
        {"user_id": "di", "status": "submitted", "values": {"better": {"value": "Crimson."}, "stars": {"value": 4}}},
    ],
    "suggestions": [{"question_name": "order", "value": ORDER}],
    "metadata": {"batch": 3},
    "external_id": "row-9",
}
ARGILLA_2 = {
    "id": "f00",
    "fields": FIELDS,
    "responses": {
        "order": [
            {"value": {"rank": [2, 1, 2], "value": ["response-1", "response-2", "response-3"]}, "user_id": "ana"},
            {"value": ["response-3", "response-1", "response-2"], "user_id": "bo", "status": "submitted"},
        ],
        "better": [{"value": "Crimson.", "user_id": "di"}],
    },
    "suggestions": {},
}
ITEMS = [{"id": "x", "body": "Blue."}, {"id": "y", "title": "Seven."}, {"id": "z", "text": "Green.", "model": "m"}]


def task(*results, data=None, **more):
    annotation = {"completed_by": 7, "lead_time": 12.5, "result": list(results)} | more
    return {"id": 4, "data": data or {"prompt": "Name a colour.", "items": ITEMS}, "annotations": [annotation]}


def ranker(value):
    return {"from_name": "rank", "to_name": "items", "type": "ranker", "value": {"ranker": value}}


def records(tmp_path, *rows):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [record for _, record in read_records(path)]


def judged(record):
    return record.labeler_id, [answer.text for answer in record.answers], record.ranks


def test_argilla_1(tmp_path):
    ranking, written = records(tmp_path, ARGILLA_1)
    assert judged(ranking) == ("argilla:ana", ["Blue.", "Seven.", "Green."], (1, 2, 1))
    assert judged(written) == ("argilla:di", ["Crimson."], None)
    assert [message.content for message in ranking.messages] == ["Name a colour."]
    assert ranking.prompt["meta"] == {"argilla": {"external_id": "row-9", "metadata": {"batch": 3}}}


def test_argilla_2(tmp_path):
    first, second, written = records(tmp_path, ARGILLA_2)
    assert judged(first) == ("argilla:ana", ["Blue.", "Seven.", "Green."], (2, 1, 2))
    assert judged(second) == ("argilla:bo", ["Blue.", "Seven.", "Green."], (2, 3, 1))
    assert judged(written) == ("argilla:di", ["Crimson."], None)


def test_argilla_without_answers_is_a_prompt(tmp_path):
    (record,) = records(tmp_path, {"fields": FIELDS, "responses": [], "suggestions": []})
    assert (record.answers, record.ranks) == ((), None)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "?"}]
    (record,) = records(tmp_path, {"fields": {"chat": chat}, "responses": {}})
    assert [message.role for message in record.messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"fields": {"a": "1", "b": "2"}, "responses": []}, "which of the fields 'a', 'b' is the prompt"),
        (
            ARGILLA_2 | {"responses": {"o": [{"value": [{"rank": 1, "value": "p"}, {"rank": 2, "value": "q"}]}]}},
            "'p', which is no field",
        ),
        (
            ARGILLA_2 | {"responses": {"o": [{"value": [dict(item, rank=0) for item in ORDER]}]}},
            "whole numbers from 1",
        ),
        (task(ranker({"rank": ["x", "w"]})), "'w', which the task does not have"),
        (task(ranker(3)), "neither a list of ids nor buckets"),
        (task(ranker(["x", "y"]), data={"prompt": "a"}), "the task has 0 lists"),
        (task({"type": "pairwise", "value": {"selected": "left"}}, data={"prompt": "a", "response1": "b"}), "Pairwise"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, row, says):
    with pytest.raises(UserError, match="row 1: ") as caught:
        records(tmp_path, row)
    assert says in str(caught.value)


def test_label_studio_ranker(tmp_path):
    (record,) = records(tmp_path, task(ranker({"rank": ["z", "x", "y"]})))
    assert judged(record) == ("label-studio:7", ["Green.", "Blue.", "Seven."], (1, 2, 3))
    assert record.judgement == {"seconds": 12.5}
    assert record.prompt["meta"] == {"label_studio": {"id": 4}}
    assert record.answers[0].model == "m"
    (record,) = records(tmp_path, task(ranker({"best": ["x", "z"], "worst": ["y"]})))  # buckets are ties
    assert judged(record) == ("label-studio:7", ["Blue.", "Green.", "Seven."], (1, 1, 2))
    (record,) = records(tmp_path, task(ranker({"_": ["y"], "best": ["x"], "next": ["z"]})))
    assert judged(record) == ("label-studio:7", ["Blue.", "Green."], (1, 2))


def test_label_studio_pairwise_and_text(tmp_path):
    data = {"question": "Name a colour.", "response1": "Blue.", "response2": "Seven."}
    left = {"type": "pairwise", "to_name": "t1,t2", "value": {"selected": "left"}}
    right = {"type": "pairwise", "to_name": ["response2", "response1"], "value": {"selected": "right"}}
    tied = {"type": "pairwise", "to_name": "response1,response2", "value": {}}
    found = [judged(record)[1:] for record in records(tmp_path, task(left, right, tied, data=data))]
    assert found == [(["Blue.", "Seven."], (1, 2)), (["Seven.", "Blue."], (2, 1)), (["Blue.", "Seven."], (1, 1))]
    written = {"type": "textarea", "value": {"text": ["Crim", "son."]}}
    stars = {"type": "rating", "value": {"rating": 4}}
    by = {"id": 9, "email": "x@example.org"}
    (record,) = records(tmp_path, task(stars, written, data={"prompt": "Name a colour."}, completed_by=by))
    assert judged(record) == ("label-studio:9", ["Crim\nson."], None)
    (skip,) = records(tmp_path, task(stars, data={"prompt": "a"}))
    assert isinstance(skip, Skip)
    assert records(tmp_path, task(written, data={"prompt": "a"}, was_cancelled=True))[0].answers == ()


def flat(trees):
    """One message a row, as the published `.messages.jsonl` files have them."""
    for tree in trees:
        waiting = [(None, tree["prompt"])]
        while waiting:
            parent, node = waiting.pop(0)
            row = {key: value for key, value in node.items() if key != "replies"}
            yield row | {"parent_id": parent, "message_tree_id": tree["message_tree_id"]}
            waiting += [(node["message_id"], reply) for reply in node.get("replies", ())]


def content(workspace):
    return (
        {prompt.id: prompt for prompt in workspace.store.prompts()},
        {ranking.id: ranking for ranking, _ in workspace.store.rankings()},
        {made.id: made for made, _ in workspace.store.demonstrations()},
        {completion.id: completion for completion in workspace.store.completions()},
        {labeler.id: labeler for labeler in workspace.store.labelers()},
    )


@pytest.mark.skipif(not TREES.is_file(), reason="the shared OpenAssistant trees are not here")
def test_flat_messages_and_nested_trees_are_the_same(tmp_path):
    trees = [json.loads(line) for line in gzip.decompress(TREES.read_bytes()).splitlines()]
    files = {"nested": trees, "flat": list(flat(trees))}
    assert len(files["flat"]) > 1000
    found = {}
    for name, rows in files.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / "oasst.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        workspace = Workspace.create(tmp_path / f"{name}-ws")
        reports = [run(workspace, [path], max_tokens=None) for run in (import_rankings, import_demonstrations)]
        found[name] = (*content(workspace), [report.taken for report in reports])
        workspace.store.close()
    assert found["flat"] == found["nested"]
    assert found["flat"][-1][0] > 100


def test_flat_messages_with_gaps(tmp_path):
    def row(key, parent, role="assistant", tree="t", **more):
        return {"message_id": key, "parent_id": parent, "role": role, "text": key, "message_tree_id": tree} | more

    first = row("a", None, "prompter")
    found = records(tmp_path, first, row("b", "a", rank=1), row("c", "a", rank=0), row("d", "gone"))
    assert judged(found[0]) == (None, ["b", "c"], (2, 1))
    assert found[1:] == [Skip("the message it answers is not in the file")]
    with pytest.raises(UserError, match=r"row 3: the messages of the tree 't' do not stand together"):
        records(tmp_path, first, row("q", None, "prompter", "u"), row("b", "a"))


def oasst_tree():
    """The question's answers have ranks with a tie; a follow-up has one answer and none."""

    def node(key, role, text, *replies, **more):
        return {"message_id": key, "role": role, "text": text, "user_id": "u", "replies": list(replies)} | more

    last = node("e", "assistant", "A warm one. 🎨")
    followed = node("b", "assistant", "Blue.", node("d", "prompter", "Another.", last), rank=1)
    answers = [followed, node("c", "assistant", "Seven.", rank=0), node("f", "assistant", "Green.", rank=1)]
    return {"message_tree_id": "a", "tree_state": "ready", "prompt": node("a", "prompter", "Name a colour.", *answers)}


@pytest.mark.parametrize(
    "rows",
    [
        [ARGILLA_1],
        [ARGILLA_2],
        [task(ranker({"best": ["x", "z"], "worst": ["y"]}))],
        [oasst_tree()],
        list(flat([oasst_tree()])),
    ],
    ids=["argilla-1", "argilla-2", "label-studio", "oasst-trees", "oasst-messages"],
)
def test_round_trips_are_lossless(tmp_path, rows):
    """A file of another tool, exported by us, imported into an empty workspace: the same rows, down to the ids."""
    path = tmp_path / "tool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    goes_round(tmp_path, path, demonstrations="annotations" not in rows[0])


@pytest.mark.skipif(not TREES.is_file(), reason="the shared OpenAssistant trees are not here")
def test_the_round_trip_of_published_trees_is_lossless(tmp_path):
    assert goes_round(tmp_path, TREES) > 100


def goes_round(tmp_path, path, demonstrations=True):
    """The number of rankings that went round."""
    first, second = Workspace.create(tmp_path / "first"), Workspace.create(tmp_path / "second")
    import_rankings(first, [path])
    if demonstrations:
        import_demonstrations(first, [path])
    for kind, run in (
        ("prompts", import_prompts),
        ("demonstrations", import_demonstrations),
        ("rankings", import_rankings),
    ):
        out = tmp_path / f"{kind}.jsonl"
        if export_own(first, kind, out):
            run(second, [out])
    assert content(second) == content(first)
    rankings = len(content(first)[1])
    assert rankings
    for workspace in (first, second):
        workspace.store.close()
    return rankings
