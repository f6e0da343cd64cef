import json
import math

import numpy as np
import pytest
from models import Scripted

from preceptor.errors import UserError
from preceptor.evaluation import scorers, tax, tax_sets
from preceptor.evaluation.reading import read_table

FORMATS = {form.name: form for form in tax_sets.FORMATS}


def lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_squad_prompts_are_the_released_ones(shared_data, paper_samples):
    """Same text and earlier questions, for every released prompt whose paragraph we have; their order is random."""
    items = tax_sets.read_squad(shared_data / "squad_v2_dev_part" / "dev-v2.0.json.gz")
    assert len(items) == 6078
    assert sum(not item.references for item in items) == 3168

    def parts(query):
        background, *turns = query.split("\n\nQ: ")
        return background, frozenset(turn.split("\n\nA:")[0] for turn in turns), turns[-1]

    ours = {parts(item.query) for item in items}
    backgrounds = {background for background, *_ in ours}
    released = {parts(row["context"]) for row in read_table(paper_samples / "squadv2_samples.csv.gz")}
    shared = [query for query in released if query[0] in backgrounds]
    assert len(shared) == 61
    assert all(query in ours for query in shared)


def test_released_samples_are_read_as_tasks(paper_samples):
    for name, start, end in (("drop", "Passage: ", "\nAnswer:"), ("fr_to_en", "French: ", "\nEnglish:")):
        items = FORMATS[name].read(paper_samples / f"{name}_samples.csv.gz")
        assert len(items) == 100
        assert all(item.query.startswith(start) and item.query.endswith(end) for item in items)
    items = FORMATS["tldr"].read(paper_samples / "tldr_samples.csv.gz")
    assert len(items) == 100
    assert all(item.query.endswith("TL;DR:") and len(item.references) == 1 for item in items)


def test_few_shot_prompt_and_no_passage_twice():
    items = [
        tax_sets.Item(query=f"Q{n}:", answer=f"a{n}", group=f"g{n // 3}", references=(f"a{n}",)) for n in range(30)
    ]
    examples, asked = tax.split_examples(items, 4, None, 0)
    assert len({example.group for example in examples}) == 4
    assert not {example.group for example in examples} & {item.group for item in asked}
    assert len(asked) == 30 - 4 * 3
    form = tax_sets.Format(name="x", read=list, metric="squad", header="H\n\n", between="\n--\n")
    first, second = tax_sets.Item(query="A:", answer="1", group=""), tax_sets.Item(query="B:", answer="2", group="")
    assert tax.prompt(form, [first], second) == "H\n\nA: 1\n--\nB:"
    assert tax.prompt(form, [], second) == "H\n\nB:"


def test_zero_and_few_shot_ask_the_same_items(shared_data):
    items = tax_sets.read_squad(shared_data / "squad_v2_dev_part" / "dev-v2.0.json.gz")
    asked = {}
    for few in (False, True):
        model = Scripted(say=lambda prompt: " Not in background.\n")
        found, shown = tax.figures(model, FORMATS["squadv2"], items, few=few, limit=40)
        asked[few] = [row["expected"] for row in shown]
        share = np.mean([row["expected"] == "()" for row in shown])
        assert [figure.interval.value for figure in found] == pytest.approx([share, share])
        assert model.calls[0].startswith(FORMATS["squadv2"].header)
        assert (model.calls[0].count("Background:") == 5) is few
    assert asked[False] == asked[True]


def test_quac(tmp_path):
    path = tmp_path / "q.json"
    turns = [
        {"question": "When?", "answers": [{"text": "in 1926"}], "orig_answer": {"text": "in 1926"}},
        {"question": "Why?", "answers": [{"text": "CANNOTANSWER"}], "orig_answer": {"text": "CANNOTANSWER"}},
    ]
    path.write_text(
        json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "C. CANNOTANSWER", "qas": turns}]}]})
    )
    one, two = tax_sets.read_quac(path)
    assert one.query == "Title: T\n\nBackground: C.\n\nQ: When?\n\nA:"
    assert two.query == "Title: T\n\nBackground: C.\n\nQ: When?\n\nA: in 1926\n\nQ: Why?\n\nA:"
    assert two.answer == "I don't know."
    (path.parent / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json: there is no 'data'"):
        tax_sets.read_quac(path.parent / "bad.json")


def test_drop_json(tmp_path):
    path = tmp_path / "d.json"
    pairs = [
        {"question": "How many?", "answer": {"number": "12", "spans": [], "date": {}}},
        {"question": "Who?", "answer": {"number": "", "spans": ["Ann", "Bob"], "date": {}},
         "validated_answers": [{"number": "", "spans": ["Ann"], "date": {}}]},
        {"question": "When?", "answer": {"number": "", "spans": [], "date": {"month": "May", "year": "1916"}}},
    ]  # fmt: skip
    path.write_text(json.dumps({"p": {"passage": "P.", "qa_pairs": pairs}}))
    items = tax_sets.read_drop(path)
    assert [item.references for item in items] == [(("12",),), (("Ann", "Bob"), ("Ann",)), (("May 1916",),)]
    assert items[0].query == "Passage: P.\nQuestion: How many?\nAnswer:"
    form = tax_sets.Format(name="drop", read=tax_sets.read_drop, metric="drop", shots=0)
    found, _ = tax.figures(Scripted(say=lambda prompt: " Ann"), form, items, few=False)
    assert [figure.interval.value for figure in found] == pytest.approx([1 / 3, 1 / 3])


def test_choices_by_highest_mean(tmp_path):
    rows = [{"query": f"Question: {n}?", "choices": ["yes", "no way at all"], "gold": n % 2} for n in range(10)]
    items = tax_sets.read_arc(lines(tmp_path / "a.jsonl", rows))
    # Totals -2 and -4 over 1 and 4 words: by mean the longer wins, by total the shorter would.
    model = Scripted(score=lambda context, text: -2.0 if text == " yes" else -4.0)
    form = tax_sets.Format(name="arc", read=tax_sets.read_arc, metric="choice", shots=0)
    (figure,), shown = tax.figures(model, form, items, few=False)
    assert {row["answer"] for row in shown} == {"no way at all"}
    assert figure.interval.value == 0.5
    assert ("Question: 3?\nAnswer:", " yes") in model.calls


def test_other_readers(tmp_path):
    row = {"activity_label": "Baking", "ctx": "She mixes. Then", "endings": ["a", "b", "c", "d"], "label": "2"}
    (item,) = tax_sets.read_hellaswag(lines(tmp_path / "h.jsonl", [row]))
    assert (item.query, item.gold) == ("Baking: She mixes. Then", 2)
    rows = [{"premise": "P.", "hypothesis": "H.", "label": label} for label in ("entailment", "not_entailment")]
    one, two = tax_sets.read_rte(lines(tmp_path / "r.jsonl", rows))
    assert one.query.startswith("Passage: P.\n\nQuestion: From this passage can one reasonably conclude that H.")
    assert (one.answer, two.answer) == ("Yes", "No")
    (tmp_path / "s.tsv").write_text('sentence\tlabel\na "good" film \t1\nbad\t0\n')
    one, two = tax_sets.read_sst(tmp_path / "s.tsv")
    assert (one.query, one.answer, two.answer) == ('Text: a "good" film\n\nLabel:', "positive", "negative")
    target = {"span1_text": "Jane", "span2_text": "she", "span2_index": 5}
    rows = [{"text": "Jane gave Joan candy because she was hungry.", "target": target, "label": True}]
    (item,) = tax_sets.read_wsc(lines(tmp_path / "w.jsonl", rows))
    assert "because *she* was" in item.query
    assert item.query.endswith("“*she*” refer to?\n\nAnswer:")
    (item,) = tax_sets.read_translation(lines(tmp_path / "t.jsonl", [{"fr": "Oui", "en": "Yes"}]))
    assert item.query == "French: Oui\nEnglish:"
    (item,) = tax_sets.read_summaries(lines(tmp_path / "c.jsonl", [{"text": "Long.", "summary": "Short"}]))
    assert item.query == "Long.\n\nTL;DR:"
    with pytest.raises(UserError, match="line 1: there is no 'fr'"):
        tax_sets.read_translation(lines(tmp_path / "x.jsonl", [{"en": "Yes"}]))


def test_wsc_by_containment():
    assert tax.same_noun(" The city council.", "city council")
    assert tax.same_noun("Jane", "Jane Smith")
    assert not tax.same_noun("Joan", "Jane")
    assert not tax.same_noun("", "Jane")


def test_bleu_interval_holds_its_value():
    said = ["the cat sat on the mat", "a dog ran home"] * 10
    gold = [["the cat sat on a mat"], ["a dog ran home now"]] * 10
    form = tax_sets.Format(name="x", read=list, metric="bleu", shots=0)
    items = [tax_sets.Item(query=str(n), answer="", group=str(n), references=tuple(g)) for n, g in enumerate(gold)]
    model = Scripted(say=lambda prompt: said[int(prompt)])
    (figure,), _ = tax.figures(model, form, items, few=False)
    assert figure.interval.value == pytest.approx(scorers.bleu(said, gold))
    assert figure.interval.low < figure.interval.value < figure.interval.high


def test_perplexity_by_hand(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("one two\nthree four five\nsix\n")
    # A word costs 2 nats; six words in 28 bytes.
    model = Scripted(score=lambda context, text: -2.0 * len(text.split()))
    per_token, per_byte, perplexity = tax.perplexity_figures(model, path, window=10)
    assert per_token.interval.value == pytest.approx(2.0)
    assert per_byte.interval.value == pytest.approx(12 / 28)
    assert perplexity.interval.value == pytest.approx(math.exp(2))
    assert [context for context, _ in model.calls] == ["", "", ""]
    assert sorted(text for _, text in model.calls) == ["one two\n", "six\n", "three four five\n"]


def test_ratio_interval_covers():
    """Pieces of unequal length: the interval of the ratio must cover the true 2.0 in about 95 % of draws."""
    chance = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        sizes = chance.integers(50, 400, 60)
        totals = sizes * chance.normal(2.0, 0.3, 60)
        interval = tax._ratio("x", totals, sizes).interval
        hits += interval.low <= 2.0 <= interval.high
    assert 182 <= hits <= 199


@pytest.mark.parametrize("metric", ["squad", "bleu", "choice"])
def test_an_item_beyond_the_context_is_missing(metric):
    items = [
        tax_sets.Item(
            query="q" * size, answer="a", group=str(size), references=("a b c d",), choices=("a", "b"), gold=0
        )
        for size in (10, 20, 500, 30, 900)
    ]
    form = tax_sets.Format(name="x", read=list, metric=metric, shots=0)
    found, shown = tax.figures(Scripted(say=lambda prompt: "a b c d", context=100), form, items, few=False)
    assert found[0].interval.n == 3
    assert found[0].missing == 2
    assert len(shown) == 3


@pytest.mark.parametrize("metric", ["squad", "choice"])
def test_as_many_examples_are_shown_as_fit(metric):
    """Examples of 30 letters, a context of 100: short items get the last two, a long one none, the longest is out."""
    items = [
        tax_sets.Item(
            query=f"{n:05}" + "q" * size, answer="a", group=f"{n}", references=("a",), choices=("a", "b"), gold=0
        )
        for n, size in enumerate([23] * 3 + [10, 10, 70, 200])
    ]
    form = tax_sets.Format(name="x", read=list, metric=metric, shots=3, between="\n\n")
    asked = items[3:]
    model = Scripted(say=lambda prompt: "a", context=100)
    prompts, replies, note = tax._with_as_many_as_fit(
        lambda prompts, _: model.generate(prompts, max_new_tokens=1), form, items[:3], asked
    )
    assert [prompt.count("\n\n") for prompt in prompts] == [2, 2, 0, 0]
    assert prompts[0].startswith("00001")
    assert replies == ["a", "a", "a", None]
    assert note == "1.3 of 3 examples fit the model's context, on average"
    found, _ = tax.figures(model, form, items, few=True)
    assert "of 3 examples fit" in found[0].note
    assert tax.figures(Scripted(say=lambda prompt: "a"), form, items, few=True)[0][0].note == ""


def test_arc_as_ai2_publishes_it(tmp_path):
    rows = [
        {"id": "Mercury_1", "question": {"stem": "Which is a gas?", "choices": [
            {"text": "iron", "label": "A"}, {"text": "steam", "label": "B"}, {"text": "ice", "label": "C"}]},
         "answerKey": "B"},
        {"id": "NYSED_2", "question": {"stem": "Which is hot?", "choices": [
            {"text": "fire", "label": "1"}, {"text": "snow", "label": "2"}]}, "answerKey": "1"},
    ]  # fmt: skip
    one, two = tax_sets.read_arc(lines(tmp_path / "ARC-Challenge-Test.jsonl", rows))
    assert (one.query, one.choices, one.gold) == ("Question: Which is a gas?\nAnswer:", ("iron", "steam", "ice"), 1)
    assert (two.gold, two.answer) == (0, "fire")
    rows[1]["answerKey"] = "D"
    with pytest.raises(UserError, match="line 2: answerKey is 'D'"):
        tax_sets.read_arc(lines(tmp_path / "bad.jsonl", rows))
    with pytest.raises(UserError, match="line 1: there is neither 'answerKey' nor 'query'"):
        tax_sets.read_arc(lines(tmp_path / "worse.jsonl", [{"question": "?"}]))


def test_hellaswag_superglue_and_glue_files_as_published(tmp_path):
    """Every key that the original files have, so that a reader that trips over one is found."""
    row = {"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
           "ctx": "A man is sitting on a roof. he", "split": "val", "split_type": "indomain", "label": 3,
           "endings": ["is using wrap.", "is ripping tiles.", "is holding a cube.", "starts pulling up roofing."],
           "source_id": "activitynet~v_-JhWjGDPHMY"}  # fmt: skip
    (item,) = tax_sets.read_hellaswag(lines(tmp_path / "hellaswag_val.jsonl", [row]))
    assert item.query == "Roof shingle removal: A man is sitting on a roof. he"
    assert item.answer == "starts pulling up roofing."
    row = {"premise": "Dana Reeve has died.", "hypothesis": "Dana Reeve lives.", "label": "not_entailment", "idx": 0}
    assert tax_sets.read_rte(lines(tmp_path / "rte.jsonl", [row]))[0].gold == 1
    target = {"span2_index": 2, "span1_index": 0, "span1_text": "Bernard", "span2_text": "himself"}
    row = {"text": "Bernard loves himself more than tea.", "target": target, "idx": 0, "label": False}
    (item,) = tax_sets.read_wsc(lines(tmp_path / "wsc.jsonl", [row]))
    assert "loves *himself* more" in item.query
    assert (item.gold, item.answer) == (0, "")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nit 's a charming journey . \t1\n")
    assert tax_sets.read_sst(tmp_path / "dev.tsv")[0].choices == ("positive", "negative")


def test_quac_as_published(tmp_path):
    turn = {
        "followup": "m", "yesno": "x", "question": "what happened in 1983?", "id": "C_0_q#0",
        "answers": [{"text": "In May 1983, she married", "answer_start": 0}, {"text": "she married"}],
        "orig_answer": {"text": "In May 1983, she married", "answer_start": 0},
    }  # fmt: skip
    paragraph = {"context": "In May 1983, she married. CANNOTANSWER", "qas": [turn], "id": "C_0"}
    article = {"paragraphs": [paragraph], "section_title": "Life", "background": "B.", "title": "Anna Vissi"}
    (tmp_path / "val_v0.2.json").write_text(json.dumps({"data": [article]}))
    (item,) = tax_sets.read_quac(tmp_path / "val_v0.2.json")
    assert item.references == ("In May 1983, she married", "she married")


def test_summaries_as_published(tmp_path):
    cnn = {"article": "(CNN) Rain fell.", "highlights": "It rained.\nA lot.", "id": "f0"}
    (item,) = tax_sets.read_summaries(lines(tmp_path / "test.jsonl", [cnn]))
    assert (item.query, item.references) == ("(CNN) Rain fell.\n\nTL;DR:", ("It rained.\nA lot.",))
    (tmp_path / "test.csv").write_text('id,article,highlights\nf0,"(CNN) Rain, again.",It rained.\n')
    assert tax_sets.read_summaries(tmp_path / "test.csv")[0].query.startswith("(CNN) Rain, again.")
    post = {"id": "t3_x", "subreddit": "AskReddit", "title": "A cat", "post": "It sleeps.", "summary": " Sleepy cat. "}
    (item,) = tax_sets.read_summaries(lines(tmp_path / "tldr.jsonl", [post]))
    assert item.query == "SUBREDDIT: r/AskReddit\n\nTITLE: A cat\n\nPOST: It sleeps.\n\nTL;DR:"
    assert item.answer == "Sleepy cat."
    with pytest.raises(UserError, match="row 1: there is no article with highlights or post"):
        tax_sets.read_summaries(lines(tmp_path / "bad.jsonl", [{"article": "x"}]))


def test_wmt_sgm_pairs(tmp_path):
    form = '<srcset setid="t">\n<doc docid="1"><p>\n<seg id="1">{}</seg>\n<seg id="2">{}</seg>\n</p></doc>'
    (tmp_path / "t-fren-src.fr.sgm").write_text(form.format("Oui & non.", "C&apos;est tout."))
    (tmp_path / "t-fren-ref.en.sgm").write_text(form.format("Yes & no.", "That is all."))
    one, two = tax_sets.read_translation(tmp_path / "t-fren-src.fr.sgm")
    assert (one.query, one.references) == ("French: Oui & non.\nEnglish:", ("Yes & no.",))
    assert two.query == "French: C'est tout.\nEnglish:"
    (tmp_path / "t-fren-ref.en.sgm").write_text("nothing")
    with pytest.raises(UserError, match="there is no <seg>"):
        tax_sets.read_translation(tmp_path / "t-fren-src.fr.sgm")
