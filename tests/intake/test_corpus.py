"""Corpora: what is read back is what was imported, in two parts that never meet."""

import pytest

from preceptor.errors import UserError
from preceptor.intake.corpus import import_corpus
from preceptor.intake.releases import read_corpus


def both(workspace, name=None):
    return [list(read_corpus(workspace, name, part)) for part in ("train", "valid")]


def test_parts_are_stable_and_disjoint(workspace, write):
    texts = [f"Document number {n}." for n in range(3000)]
    report = import_corpus(workspace, [write("a.jsonl.gz", [{"text": text} for text in texts])])
    assert report.taken == 3000
    train, valid = both(workspace)
    assert sorted(train + valid) == sorted(texts)
    assert 30 < len(valid) < 90  # 2% are 60, and a standard deviation is 7.7
    import_corpus(workspace, [write("b.jsonl", [{"text": text} for text in texts[:1500]])])
    assert set(both(workspace, "b")[1]) == set(valid) & set(texts[:1500])


def test_a_small_corpus_has_one_document_for_validation(workspace, write):
    import_corpus(workspace, [write("two.jsonl", [{"text": "One."}, {"text": "Two."}])])
    train, valid = both(workspace, "two")
    assert (len(train), len(valid)) == (1, 1)
    import_corpus(workspace, [write("one.jsonl", [{"text": "Only."}])])
    assert both(workspace, "one") == [["Only."], []]


def test_a_book_gives_to_both_parts(workspace, write):
    book = "\n\n".join(f"Paragraph {n} " + "goes on and on. " * 30 for n in range(2000))
    report = import_corpus(workspace, [write("book.jsonl", [{"title": "B", "text": book}])])
    assert report.taken == 1
    train, valid = both(workspace)
    assert valid
    assert "".join("".join(train + valid).split()).__len__() == len("".join(book.split()))


def test_plain_text_is_one_document_read_in_blocks(workspace, write):
    text = "\n\n".join(f"Line {n}\nand its second line." for n in range(2000))
    import_corpus(workspace, [write("a.txt", text)])
    train, valid = both(workspace)
    assert sorted("\n\n".join(train + valid).split("\n\n")) == sorted(text.split("\n\n"))


def test_again_and_other_text_under_the_name(workspace, write):
    path = write("a.jsonl", [{"text": "One."}, {"text": "One."}, {"text": " "}, {"text": "Two."}])
    report = import_corpus(workspace, [path])
    assert (report.rows, report.taken) == (4, 2)
    assert {reason: skip.row for reason, skip in report.skipped.items()} == {
        "the same document again": 2,
        "the document is empty": 3,
    }
    again = import_corpus(workspace, [path])
    assert (again.taken, again.known) == (0, 2)
    with pytest.raises(UserError, match="exists with other text"):
        import_corpus(workspace, [write("b.jsonl", [{"text": "Three."}])], name="a")
    assert len(list((workspace.root / "corpus").iterdir())) == 1
    with pytest.raises(UserError, match="cannot name"):
        import_corpus(workspace, [path], name="../a")


def test_a_changed_or_unknown_corpus_is_named(workspace, write):
    with pytest.raises(UserError, match="preceptor import corpus"):
        read_corpus(workspace)
    import_corpus(workspace, [write("a.jsonl", [{"text": "One."}])])
    with pytest.raises(UserError, match="there: a"):
        read_corpus(workspace, "b")
    (path,) = (workspace.root / "corpus").iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{path.name} was changed"):
        read_corpus(workspace, "a")


def test_a_map_names_the_text(workspace, write):
    import_corpus(workspace, [write("a.jsonl", [{"body": {"en": "One."}}])], map={"text": "body.en"})
    assert both(workspace) == [["One."], []]
    with pytest.raises(UserError, match="'text' only"):
        import_corpus(workspace, [write("a.jsonl", [{"body": "One."}])], map={"prompt": "body"})
