"""Each format on a row that fits on a line, with what it must give."""

import json
from itertools import product

import pytest

from preceptor.intake.files import Row
from preceptor.intake.formats import Skip
from preceptor.intake.preferences import ranks_of_pairs, ranks_of_scores
from preceptor.intake.readers import detect, read_records

U, A = "user", "assistant"
HUMAN = "\n\nHuman: Hi\n\nAssistant: Hello"
CHAT = [{"role": "user", "content": "Hi"}]

# row, messages, answers, ranks
ROWS = [
    ({"chosen": HUMAN + " you", "rejected": HUMAN}, [(U, "Hi")], ["Hello you", "Hello"], (1, 2)),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, [(U, "Hi")], ["a", "b"], (1, 2)),
    (
        {"prompt": CHAT, "chosen": [{"role": A, "content": "a"}], "rejected": [{"role": A, "content": "b"}]},
        [(U, "Hi")],
        ["a", "b"],
        (1, 2),
    ),
    (
        {"chosen": [*CHAT, {"role": A, "content": "a"}], "rejected": [*CHAT, {"role": A, "content": "b"}]},
        [(U, "Hi")],
        ["a", "b"],
        (1, 2),
    ),
    (
        {
            "prompt": "Hi",
            "chosen": [*CHAT, {"role": A, "content": "a"}],
            "rejected": [*CHAT, {"role": A, "content": "b"}],
        },
        [(U, "Hi")],
        ["a", "b"],
        (1, 2),
    ),
    (
        {"text": [HUMAN, HUMAN + "?", HUMAN + "!"], "score": [0, 2, 2]},
        [(U, "Hi")],
        ["Hello", "Hello?", "Hello!"],
        (3, 1, 1),
    ),
    ({"instruction": "Add", "input": "1 1", "output": "2"}, [(U, "Add\n\n1 1")], ["2"], None),
    ({"instruction": "Add", "context": "", "response": "2", "category": "c"}, [(U, "Add")], ["2"], None),
    (
        {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]},
        [(U, "a"), (A, "b"), (U, "c")],
        ["d"],
        None,
    ),
    ({"conversations": ["a", "b"], "source": "x"}, [(U, "a")], ["b"], None),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, [(U, "a")], ["b"], None),
    ({"messages": [*CHAT, {"role": A, "content": "a"}]}, [(U, "Hi")], ["a"], None),
    ({"messages": CHAT}, [(U, "Hi")], [], None),
    ({"turns": ["a", "b"], "question_id": 1}, [(U, "a")], [], None),
    ({"turns": [{"content": "a"}]}, [(U, "a")], [], None),
    ({"prompt": "Hi", "completion": "a"}, [(U, "Hi")], ["a"], None),
    ({"prompt": CHAT, "completion": [{"role": A, "content": "a"}]}, [(U, "Hi")], ["a"], None),
    ({"prompt": "Hi", "completion": "a", "label": True}, [(U, "Hi")], ["a"], None),
    ({"prompt": "Hi"}, [(U, "Hi")], [], None),
    ({"prompt": CHAT}, [(U, "Hi")], [], None),
    ({"question": "a?", "answer": "b"}, [(U, "a?")], ["b"], None),
    ({"instruction": "a", "instances": [{"input": "b", "output": "c"}]}, [(U, "a\n\nb")], ["c"], None),
    ({"prompt": "a", "response 1": "b", "response 2": "c", "label": 1}, [(U, "a")], ["b", "c"], (2, 1)),
    (
        {"instruction": "a", "output_1": "b", "output_2": "c", "preference": 2.0},
        [(U, "a")],
        ["b", "c"],
        (2, 1),
    ),
    ({"messages": CHAT, "answers": ["a", "b", "c"], "ranks": [2, 1, 2]}, [(U, "Hi")], ["a", "b", "c"], (2, 1, 2)),
]


def records(tmp_path, row):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return [record for _, record in read_records(path)]


@pytest.mark.parametrize(("row", "messages", "answers", "ranks"), ROWS)
def test_a_row(tmp_path, row, messages, answers, ranks):
    (record,) = records(tmp_path, row)
    assert [(message.role, message.content) for message in record.messages] == messages
    assert [answer.text for answer in record.answers] == answers
    assert record.ranks == ranks


def test_rows_with_nothing_to_learn(tmp_path):
    other = "\n\nHuman: Ho\n\nAssistant: Hello"
    assert records(tmp_path, {"chosen": HUMAN, "rejected": other}) == [
        Skip("the dialogues differ before their last answer")
    ]
    unfinished = HUMAN + "\n\nHuman: And"
    assert records(tmp_path, {"chosen": unfinished, "rejected": HUMAN}) == [Skip("a dialogue ends without an answer")]
    assert records(tmp_path, {"prompt": "a", "completion": "b", "label": False}) == [Skip("labelled as a bad answer")]


def test_a_tree(tmp_path):
    def node(role, text, rank=None, replies=()):
        return {"role": role, "text": text, "rank": rank, "replies": list(replies)}

    later = node("prompter", "c", replies=[node("assistant", "d")])
    replies = [
        node("assistant", "b0", 0, [later]),
        node("assistant", "b1", 1),
        node("assistant", "b2", 1),
        node("assistant", "b3"),
    ]
    first, second = records(tmp_path, {"message_tree_id": "t", "prompt": node("prompter", "a", replies=replies)})
    assert [answer.text for answer in first.answers] == ["b0", "b1", "b2"]
    assert (first.ranks, first.group) == ((1, 2, 2), "t")  # the tie is kept, the reply without a rank is left out
    assert [message.content for message in second.messages] == ["a", "b0", "c"]
    assert ([answer.text for answer in second.answers], second.ranks) == (["d"], None)


def test_pandalm_gives_a_ranking_for_each_annotator(tmp_path):
    row = {"instruction": "a", "input": "", "response1": "b", "response2": "c", "cmp_key": "x_y"}
    found = records(tmp_path, row | {"annotator1": 0, "annotator2": 1, "annotator3": 2})
    assert [(record.labeler_id, record.ranks) for record in found] == [
        ("pandalm:annotator1", (1, 1)),
        ("pandalm:annotator2", (1, 2)),
        ("pandalm:annotator3", (2, 1)),
    ]
    assert [answer.model for answer in found[0].answers] == ["x", "y"]


def test_a_map_reaches_into_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": {"text": "Hi"}, "a.b": "dotted", "list": ["x", {"y": "z"}], "who": "ana"}\n')
    ((_, record),) = read_records(path, map={"prompt": "q.text", "text": "list.1.y", "labeler_id": "who"})
    assert (record.messages[0].content, record.answers[0].text, record.labeler_id) == ("Hi", "z", "ana")
    ((_, record),) = read_records(path, map={"prompt": "q.text", "chosen": "a.b", "rejected": "list.0"})
    assert ([answer.text for answer in record.answers], record.ranks) == (["dotted", "x"], (1, 2))


def test_detection_wants_a_format_that_fits_every_row(tmp_path):
    rows = [
        Row(1, {"instruction": "a", "input": "", "output": "b"}),
        Row(2, {"instruction": "a", "output": "b", "history": []}),
    ]
    assert detect(tmp_path, rows).name == "alpaca"


def test_scores_to_ranks():
    assert ranks_of_scores([1.5, 0.5, 1.5]) == (1, 3, 1)
    assert ranks_of_scores([0, 1]) == (2, 1)


def test_pairwise_preferences_to_ranks_against_all_rankings():
    """For three answers: exactly the preferences that some ranking with ties implies give a ranking, and that one."""
    pairs = [(0, 1), (0, 2), (1, 2)]
    implied = {}
    for ranks in product((1, 2, 3), repeat=3):
        key = tuple(0 if ranks[i] == ranks[j] else 1 if ranks[i] < ranks[j] else 2 for i, j in pairs)
        implied.setdefault(key, ranks)
    for key in product((0, 1, 2), repeat=3):
        found = ranks_of_pairs(3, dict(zip(pairs, key)))
        if key not in implied:
            assert found is None
        else:
            assert [(found[i] > found[j]) - (found[i] < found[j]) for i, j in pairs] == [
                (implied[key][i] > implied[key][j]) - (implied[key][i] < implied[key][j]) for i, j in pairs
            ]
    assert ranks_of_pairs(3, dict(zip(pairs, (1, 2, 1)))) is None  # 0 beats 1, 1 beats 2, 2 beats 0
    assert ranks_of_pairs(3, dict(zip(pairs, (0, 1, 0)))) is None  # ties that do not carry over
    assert ranks_of_pairs(3, dict(zip(pairs, (0, 1, 1)))) == (1, 1, 3)
