"""Bad files: one clear line that names the file and the row, and nothing in the store."""

import gzip
import json

import pytest
import zstandard

from preceptor.errors import UserError
from preceptor.intake.corpus import import_corpus
from preceptor.intake.importing import import_demonstrations, import_prompts, import_rankings

DEMONSTRATION = {"prompt": "Name a colour.", "text": "Blue."}
RANKING = {"prompt": "Name a colour.", "answers": ["Blue.", "Seven."], "ranks": [1, 2]}


def refused(workspace, importer, path, *parts, **options):
    """The import fails with one line that has every part in it, and leaves nothing behind."""
    with pytest.raises(UserError) as caught:
        importer(workspace, [path], **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (path.name, *parts):
        assert part in message
    assert not any(workspace.store.counts().values())
    assert not list((workspace.root / "corpus").iterdir())
    return message


def many(row, count):
    """Rows that do not compress to nothing, each with its own prompt."""
    return [row | {"prompt": f"{row['prompt']} {number * 7919 % 100_003}"} for number in range(count)]


def test_truncated_compression(workspace, write):
    text = "".join(json.dumps(row) + "\n" for row in many(DEMONSTRATION, 5000)).encode()
    for name, packed in (("a.gz", gzip.compress(text)), ("a.zst", zstandard.compress(text))):
        path = write(name.replace(".", "-"), packed[:-20])
        refused(workspace, import_demonstrations, path, "after row", "cut off or damaged")
        path = write("half", packed[: len(packed) // 2])
        refused(workspace, import_corpus, path, "cut off or damaged")


def test_wrong_encodings(workspace, write):
    row = b'{"prompt": "Caf\xe9?", "text": "Yes."}\n'
    refused(workspace, import_demonstrations, write("a.jsonl", b"{}\n" * 0 + row), "0xe9", "iconv")
    utf16 = json.dumps(DEMONSTRATION).encode("utf-16")
    refused(workspace, import_demonstrations, write("b.jsonl", utf16), "UTF-16", "iconv")


def test_empty_files(workspace, write):
    for importer in (import_prompts, import_demonstrations, import_rankings, import_corpus):
        refused(workspace, importer, write("a.jsonl", ""), "empty")
        refused(workspace, importer, write("a.jsonl.gz", ""), "empty")
    refused(workspace, import_prompts, write("b.jsonl", "\n\n"), "no rows")
    refused(workspace, import_prompts, write("c.json", "[]"), "no rows")


def test_missing_files(workspace, tmp_path):
    refused(workspace, import_prompts, tmp_path / "none.jsonl", "No such file")
    refused(workspace, import_prompts, tmp_path, "directory")
    with pytest.raises(UserError, match="no file"):
        import_prompts(workspace, [])


def test_a_later_row_without_its_key(workspace, write):
    rows = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(40)]
    del rows[29]["output"]
    refused(workspace, import_demonstrations, write("a.jsonl", rows), "row 30", "'output'", "alpaca")


def test_rows_that_are_not_json(workspace, write):
    good = json.dumps(DEMONSTRATION)
    refused(workspace, import_demonstrations, write("a.jsonl", f"{good}\n{good[:-1]}\n{good}\n"), "row 2", "not JSON")
    refused(workspace, import_demonstrations, write("b.jsonl", f"{good}\n[1, 2]\n"), "row 2", "list")
    refused(workspace, import_demonstrations, write("c.json", f"[{good}, {good[:9]}"), "row 2", "ends in the middle")
    refused(workspace, import_demonstrations, write("d.json", f"[{good}, nonsense]"), "row 2", "not JSON")


def test_nan(workspace, write):
    row = '{"text": ["\\n\\nHuman: a\\n\\nAssistant: b", "\\n\\nHuman: a\\n\\nAssistant: c"], "score": [NaN, 1]}'
    refused(workspace, import_rankings, write("a.jsonl", row), "row 1", "NaN")


def test_rankings_that_are_none(workspace, write):
    cases = [
        (RANKING | {"answers": ["Blue."], "ranks": [1]}, "at least 2"),
        (RANKING | {"ranks": [1, 2, 3]}, "2 answers but 3 ranks"),
        (RANKING | {"ranks": [0, 1]}, "1 for the best"),
        (RANKING | {"ranks": [1.5, 1]}, "1 for the best"),
        (RANKING | {"ranks": [True, 1]}, "1 for the best"),
        (RANKING | {"models": ["one"]}, "2 answers but 1 models"),
        (RANKING | {"answers": "Blue."}, "no list"),
        (RANKING | {"answers": [7, "Blue."]}, "int, not text"),
        (RANKING | {"split": "training"}, "known: train, valid, test"),
        (RANKING | {"consent": "yes"}, "'consent'"),
        (RANKING | {"answers": [{"text": "a", "sampling": {"temp": 1}}, "b"]}, "'temp'"),
        (RANKING | {"answers": [{"text": "a", "finish_reason": "tired"}, "b"]}, "known: stop, length"),
        ({"text": [1, 2], "score": 3}, "one number for each text"),
        ({"text_correct": 1, "text_incorrect": 2}, "int, not text"),
        ({"reference": 1, "candidates": 2, "instruction": "a"}, "shape of the format alpaca_eval"),
        ({"text": ["one", "two"], "score": [1]}, "one number for each text"),
        ({"text": ["one", "two"], "score": ["1", "2"]}, "no number"),
        ({"response 1": "a", "response 2": "b", "prompt": "c", "label": 3}, "'label' is 3"),
    ]
    for row, part in cases:
        refused(workspace, import_rankings, write("a.jsonl", [row]), "row 1", part)


def test_one_bad_row_after_a_thousand_leaves_nothing(workspace, write):
    rows = [*many(RANKING, 1200), RANKING | {"ranks": [1]}]
    refused(workspace, import_rankings, write("a.jsonl.gz", rows), "row 1201", "2 answers but 1 ranks")


def test_an_id_used_twice(workspace, write):
    prompts = [{"id": "p1", "prompt": "One."}, {"id": "p1", "prompt": "Two."}]
    refused(workspace, import_prompts, write("a.jsonl", prompts), "row 2", "'p1'", "own id", common_prefix=False)
    far = [*({"id": f"q{n}", "prompt": f"Say {n}."} for n in range(600)), {"id": "q3", "prompt": "Other."}]
    refused(workspace, import_prompts, write("b.jsonl", far), "row 601", "'q3'")
    rows = [DEMONSTRATION | {"id": "d1"}, DEMONSTRATION | {"id": "d1", "text": "Red."}]
    refused(workspace, import_demonstrations, write("c.jsonl", rows), "row 2", "'d1'", "text")
    rows = [RANKING | {"id": "r1"}, RANKING | {"id": "r1", "ranks": [2, 1]}]
    refused(workspace, import_rankings, write("d.jsonl", rows), "row 2", "'r1'", "ranks")


def test_unknown_formats_and_maps(workspace, write):
    path = write("a.jsonl", [{"foo": "bar"}])
    refused(workspace, import_prompts, path, "row 1", "'foo'", "--map")
    with pytest.raises(UserError, match="did you mean 'alpaca'"):
        import_prompts(workspace, [path], format="alpacca")
    with pytest.raises(UserError, match="did you mean 'prompt'"):
        import_prompts(workspace, [path], map={"promt": "foo"})
    refused(workspace, import_prompts, path, "row 1", "did you mean 'foo'", map={"prompt": "fo"})
    refused(workspace, import_demonstrations, write("b.jsonl", [{"prompt": "Hm?"}]), "no answers")
    refused(workspace, import_rankings, write("c.jsonl", [DEMONSTRATION]), "no ranks")
    refused(workspace, import_corpus, write("d.jsonl", [{"body": "x"}]), "row 1", "'text'")


def test_csv_with_a_short_row(workspace, write):
    refused(workspace, import_prompts, write("a.csv", "prompt,category\nHi,x\nHo\n"), "row 2", "columns")


def test_shares_must_add_up(workspace, write):
    path = write("a.jsonl", [DEMONSTRATION])
    with pytest.raises(UserError, match=r"add up to 0\.9"):
        import_prompts(workspace, [path], shares={"train": 0.9})
    with pytest.raises(UserError, match="no split 'dev'"):
        import_prompts(workspace, [path], shares={"dev": 1.0})
