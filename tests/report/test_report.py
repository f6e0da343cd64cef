import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_example import about, example

from preceptor.report import words
from preceptor.report.build import render, write_report
from preceptor.report.charts import Dot, DotAxis, Row, dot_chart
from preceptor.report.data import (
    Accuracy,
    Agreement,
    Ancestor,
    Answer,
    Model,
    OverOptimisation,
    Point,
    ReportData,
    RewardCheck,
    Sample,
    Series,
    Training,
    WinRate,
)
from preceptor.report.figures import overoptimisation, training, win_rates
from preceptor.report.sections import lineage_tree, ordered_samples
from preceptor.report.svg import Scale, apart, tick_labels, ticks
from preceptor.report.words import MINUS, headline, number, opening, preference, signed, steps, wrap
from preceptor.statistics.interval import Interval

EMPTY = ReportData(workspace="new", created="2025-06-06")
VOID = {"meta", "br", "link", "img", "hr", "input", "line", "path", "circle", "rect", "wbr"}


class Page(HTMLParser):
    """Tags with their attributes; fails on a tag that is closed in the wrong place."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    return render(example())


def test_one_file_without_script_style_attributes_or_addresses(page):
    parsed = Page(page)
    assert not parsed.all("script")
    assert not parsed.all("link")
    assert len(parsed.all("style")) == 1
    for tag, attributes in parsed.tags:
        assert "style" not in attributes, tag
        assert "src" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for link in parsed.all("a"):
        assert link["href"].startswith("#")
    assert "http" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert len(parsed.all("h1")) == 1


def test_links_of_the_contents_lead_somewhere(page):
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in parsed.all("a"):
        assert link["href"][1:] in ids


def test_every_figure_has_two_widths_a_name_and_a_table(page):
    parts = re.findall(r"<figure.*?</figure>\s*<details.*?</details>", page, re.S)
    assert len(parts) == page.count("<figure") >= 12
    for part in parts:
        drawings = [a for tag, a in Page(part).tags if tag == "svg"]
        assert [a["class"] for a in drawings] == ["for-wide", "for-narrow"]
        assert [a["width"] for a in drawings] == ["736", "358"]
        assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
        assert "<table" in part
        assert part.count("<tr>") >= 2


def test_drawn_text_stays_inside_its_figure(page):
    for drawing in re.findall(r"<svg class=\"for-.*?</svg>", page, re.S):
        width = int(re.search(r'width="(\d+)"', drawing)[1])
        for x, attributes, text in re.findall(r'<text x="([-\d.]+)" y="[-\d.]+"(.*?)>(.*?)</text>', drawing):
            length = 6.2 * len(html.unescape(text)) * (1.1 if "x-a" in attributes or "t-strong" in attributes else 1)
            anchor = re.search(r'text-anchor="(\w+)"', attributes)
            start = float(x) - {"middle": length / 2, "end": length}.get(anchor[1] if anchor else "", 0)
            assert start >= -6, text
            assert start + length <= width + 8, text


def test_hostile_text_stays_text():
    hostile = '<script>alert("x")</script><img src=x onerror=y>{{ 7*7 }}'
    made = render(example(hostile))
    parsed = Page(made)
    assert not parsed.all("script")
    assert not parsed.all("img")
    assert "{{ 7*7 }}" in made
    assert html.escape("<script>") in made
    models = [Model(name="m", role="ppo-ptx", label=hostile), Model(name="b", role="sft", label=hostile)]
    row = WinRate(model="m", baseline="b", judge=hostile, decoding=hostile, win=about(0.6, 0.05))
    named = ReportData(workspace=hostile, created="d", main="m", baseline="b", models=models, win_rates=[row])
    assert not Page(render(named)).all("script")
    assert not Page(render(named)).all("img")


def test_an_empty_report_says_what_is_missing_and_what_fills_it():
    made = render(EMPTY)
    Page(made)
    text = html.unescape(re.sub(r"<style>.*?</style>", "", made, flags=re.S))
    assert "nothing is claimed here" in text
    for command in ("preceptor evaluate", "preceptor reward", "preceptor pretrain", "preceptor ppo"):
        assert command in text
    assert "<figure" not in text
    assert text.count("Not on record here") == 6
    assert "preferred" not in text


@pytest.mark.parametrize("part", sorted(set(ReportData.__dataclass_fields__) - {"workspace", "created"}))
def test_every_part_is_optional(part):
    """The whole report without one part, and an empty one with that part alone."""
    full = example()
    values = {name: getattr(full, name) for name in full.__dataclass_fields__}
    values[part] = getattr(EMPTY, part)
    Page(render(ReportData(**values)))
    Page(render(ReportData(workspace="w", created="d", **{part: getattr(full, part)})))


def test_the_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_report(example(), tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render(example())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    monkeypatch.setattr("preceptor.report.build.render", lambda data: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_report(example(), path)
    assert path.read_text(encoding="utf-8") == render(example())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def row(low, high, **rest):
    win = Interval(value=(low + high) / 2, low=low, high=high, n=100, clusters=50)
    return WinRate(**{"model": "m", "baseline": "b", "judge": "gold", "decoding": "T = 1", "win": win, **rest})


def test_sentences_follow_the_interval():
    assert "is preferred to b in 60.0 %" in preference(EMPTY, row(0.55, 0.65))
    assert "cannot be told apart" in preference(EMPTY, row(0.45, 0.65))
    assert "preferred less often" in preference(EMPTY, row(0.35, 0.45))
    data = ReportData(
        workspace="w",
        created="d",
        main="m",
        baseline="b",
        win_rates=[row(0.55, 0.65), row(0.45, 0.58, decoding="greedy"), row(0.2, 0.3, judge="people")],
    )
    said = headline(data)
    assert "95 % interval 55.0 to 65.0; n = 100 on 50 prompts; judge: gold; decoding: T = 1" in said
    assert "Decoding greedy: 51.5 % (45.0 to 58.0), not told apart from one half." in said
    assert "20.0" not in said


def curve(*points):
    base = example()
    made = [
        Point(step=i, kl=float(i * i), proxy=about(proxy, 0.1), gold=None if gold is None else about(gold, 0.1))
        for i, (proxy, gold) in enumerate(points)
    ]
    values = {name: getattr(base, name) for name in base.__dataclass_fields__}
    run = type(base.overoptimisation)(model="m", points=made)
    return ReportData(**{**values, "overoptimisation": run})


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0, 0), (1, 1), (2, -1)], "gold ends below where it began"),
        ([(0, 0), (1, 1), (2, 0.3)], "gold is highest at √KL 1.0 and falls from there"),
        ([(0, 0), (1, 1), (2, 1.1)], "no over-optimisation is shown"),
        ([(0, 0), (1, 0.1), (2, 0.1)], "gold does not change beyond its intervals"),
        ([(0, 0), (0.1, 0.1), (0.1, 0.1)], "The proxy does not change"),
        ([(0, None), (1, None)], "gold was not measured"),
    ],
)
def test_the_over_optimisation_caption_follows_the_curve(points, said):
    data = curve(*points)
    assert said in overoptimisation(data).point
    Page(render(data))


def test_the_reward_model_is_not_called_good_when_it_is_not():
    data = ReportData(
        workspace="w",
        created="d",
        reward_accuracy=[Accuracy(reward_model="rm", against="held-out labelers", accuracy=about(0.51, 0.02))],
        reward_checks=[
            RewardCheck(flaw="rude", reward_model="rm", preferred=about(0.9, 0.05)),
            RewardCheck(flaw="wrong fact", reward_model="rm", preferred=about(0.52, 0.05)),
        ],
    )
    made = render(data)
    assert "not shown to be above chance" in made
    assert "not shown to see 1 of 2 flaws: wrong fact" in made


def test_agreement_of_nobody_is_missing_not_drawn():
    nobody = Interval(value=math.nan, low=0.0, high=1.0, n=0, clusters=0)
    data = ReportData(workspace="w", created="d", agreement=[Agreement(group="All", rate=nobody)])
    assert "No agreement" in render(ReportData.from_json(data.to_json()))
    assert "<figure" not in render(data)


def test_one_prompt_alone_and_infinite_ends_can_be_drawn():
    alone = Interval(value=3.0, low=-float("inf"), high=float("inf"), n=4, clusters=1)
    data = curve((0, 0), (1, 1))
    points = [Point(step=0, kl=0, proxy=alone, gold=alone), Point(step=1, kl=1, proxy=alone, gold=alone)]
    values = {name: getattr(data, name) for name in data.__dataclass_fields__}
    made = render(ReportData(**{**values, "overoptimisation": type(data.overoptimisation)(model="m", points=points)}))
    assert not re.search(r"\b(inf|nan)\b", re.sub(r"<style>.*?</style>", "", made, flags=re.S))
    assert "nan" not in " ".join(re.findall(r'[xy][12]?="([^"]*)"', made))
    assert "one group: no interval" in made


def test_the_headline_figure_holds_the_numbers():
    figure = win_rates(example())
    assert ["PPO-ptx 0.25M", "69.1 %", "67.1 to 71.1", "4,800"] in figure.rows
    assert ["SFT 0.25M", "50.0 %", "by definition", "none"] in figure.rows
    assert figure.svg.count("PPO-ptx</text>") == 2
    assert len(figure.rows) == 7


def test_a_gap_in_a_curve_is_left_out():
    loss = Series(name="loss", values=[3.0, None, float("nan")])
    run = Training(stage="sft", model="m", steps=[0, 1, 2], series=[loss])
    (figure,) = training(ReportData(workspace="w", created="d", training=[run]))
    assert figure.rows[0][2:4] == ["3.000", "3.000"]
    silent = Training(stage="sft", model="m", steps=[0], series=[Series(name="loss", values=[None])])
    assert training(ReportData(workspace="w", created="d", training=[silent])) == []


def test_six_steps_claim_only_what_is_on_record():
    said = dict(steps(example()))
    assert list(said) == [
        "A base model.",
        "Examples (SFT).",
        "Rankings.",
        "A reward model.",
        "Reinforcement learning (PPO).",
        "The test.",
    ]
    assert "1,000 answers written by 7 writers" in said["Examples (SFT)."]
    assert "7,000 lists of 4 answers each" in said["Rankings."]
    assert "simulated" in said["Rankings."]
    assert "Not on record" in dict(steps(EMPTY))["Rankings."]


def test_lineage_is_a_tree_and_ends_even_where_cards_go_in_circles():
    (root,) = lineage_tree(example())
    assert root.name == "ppo-ptx-small"
    assert [(child.relation, child.name) for child in root.children] == [
        ("starts from", "sft-small"),
        ("rewarded by", "rm-2"),
        ("read", "corpus"),
    ]
    again = root.children[1].children[0]
    assert (again.name, again.note, again.children) == ("sft-small", "as above", [])
    ring = [Ancestor(name="a", kind="ppo", parents={"of": "b"}), Ancestor(name="b", kind="ppo", parents={"of": "a"})]
    Page(render(ReportData(workspace="w", created="d", lineage=ring)))
    orphan = Ancestor(name="a", kind="sft", parents={"of": "x"})
    lost = lineage_tree(ReportData(workspace="w", created="d", lineage=[orphan]))
    assert lost[0].children[0].note == "not in this workspace"


def test_worst_answers_come_first():
    data = example()
    assert [sample.group for sample in ordered_samples(data)] == ["worst", "typical"]
    unscored = Sample(prompt="p", answers=[Answer(model=data.main, text="a", notes=["untrue"])], group="worst")
    shown = ordered_samples(replace(data, samples=[unscored, *data.samples]))
    assert [(sample.group, sample.prompt == "p") for sample in shown] == [
        ("worst", False), ("worst", True), ("typical", False)
    ]  # fmt: skip


def test_a_fault_stands_below_its_answer_and_an_answer_without_one_is_not_scored():
    bad = Answer(model="m", text="Sure.", notes=["complied, harmful, role play"])
    lost = Answer(model="m", text="No.")
    samples = [Sample(prompt="Why?", answers=[one], group="worst", slice="depth") for one in (bad, lost)]
    text = text_of(replace(EMPTY, samples=samples))
    assert "Worst · depth Why? m Sure. complied, harmful, role play Worst · depth Why? m No. not scored" in text


def test_numbers_in_words():
    assert number(-0.004, 2) == "0.00"
    assert number(-7.42, 1) == "−7.4"
    assert number(12_345.6, 0) == "12,346"
    assert signed(0.12) == "+0.12"
    assert signed(-0.12) == "−0.12"
    assert words.duration(412) == "6 min 52 s"
    assert words.duration(3725) == "1 h 2 min"
    assert wrap("a word too many for it", 8) == ["a word", "too many"[:7] + "…"]


def test_long_answers_fold_and_lose_no_word():
    text = "one two three\n\n" + "word " * 900
    shown, rest = opening(text)
    assert len(" ".join(shown).split()) == 120
    assert " ".join([*shown, *rest]).split() == text.split()
    assert opening("short") == (["short"], [])
    assert opening(" \n ") == ([], [])


def test_table_cells():
    numbers = ("1,200", "7", "69.1 %", "−0.1 to 0.3", "+0.1", "69.1 % (67.1 to 71.1)")
    assert all(words.is_figure(cell) for cell in numbers)
    assert not any(
        words.is_figure(cell) for cell in ("", "gold", "9c41" * 16, "2 flaws that nobody has seen in any answer")
    )
    assert "".join(words.pieces("9c41" * 16)) == "9c41" * 16
    assert max(map(len, words.pieces("9c41" * 16))) == 16


def test_ticks_and_labels():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert tick_labels([-0.5, 0, 0.5]) == ["−0.5", "0", "0.5"]
    assert ticks(3, 3)[0] < 3 < ticks(3, 3)[-1]
    assert apart([10, 12, 40], 17, 0, 100) == [10, 27, 40 + 4]
    assert apart([98, 99], 17, 0, 100) == [83, 100]
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(0, 10, 100, 200).held(float("inf")) == 200


def text_of(data):
    made = re.sub(r"<style>.*?</style>", "", render(data), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", made)).split())


def test_people_and_suites_are_in_the_report():
    text = text_of(example())
    assert "PPO 0.25M stands highest of 4 models, but its interval meets another’s." in text
    assert "Overall quality, 1 to 7, as people gave it: PPO-ptx 0.25M 5.2; SFT 0.25M 4.1; Base 1.1M 2.4." in text
    assert "use case: rewrite" in text
    assert "Behaviours by slice" in text
    assert "14 pairs have no verdict of held-out labelers (9 contradiction, 5 timeout)" in text
    assert "Shown first wins 50.8 % (48.8 to 52.8) with held-out labelers: no effect is shown." in text
    for title in ("Truthfulness and hallucination", "Toxicity and bias", "Is the refusal more than a surface?"):
        assert title in text
    assert "self-BLEU" in text  # no share: in the table of its group
    assert "Benign look-alikes refused (over-refusal)" in text


def guessed(proxy, gold):
    points = [
        Point(step=step, kl=float(step), proxy=about(p, 0.1), gold=about(g, 0.1))
        for step, (p, g) in enumerate(zip(proxy, gold))
    ]
    return replace(
        EMPTY,
        overoptimisation=OverOptimisation(
            model="m", points=points, gold_name="held-out reward model", stand_in=True, prompts="10 prompts"
        ),
    )


@pytest.mark.parametrize(
    ("proxy", "gold", "said"),
    [
        ((0, 1, 2, 3), (0, 1, 0.9, 0.2), "Warning: proxy and stand-in part ways"),
        ((0, 1, 2, 3), (0, 0, 0, 0), "Warning: the proxy rises, held-out reward model is not shown to follow."),
        ((0, 1, 2, 3), (0, 1, 2, 3), "The two are not shown to part ways."),
        ((0, 0, 0, 0), (0, 1, 0.9, 0.2), "The two are not shown to part ways."),
    ],
)
def test_a_stand_in_for_gold_is_called_one_and_warned_of(proxy, gold, said):
    text = text_of(guessed(proxy, gold))
    assert said in text
    assert "There is no gold here: held-out reward model stands in for it" in text


def test_best_of_n_and_the_fitted_law_are_on_the_axes_of_rl():
    text = render(example())
    figure = text[text.index('id="over"') : text.index('id="tax"')]
    assert "best of n: gold" in figure
    assert "Gao’s law" in figure


def test_every_comparison_says_what_it_can_tell_and_a_workspace_without_a_plan_says_it_in_words():
    """4,800 comparisons on 300 prompts: 2.80158 * 0.5 * sqrt((1 + 15 * 0.3) / 4800) is 4.7 points."""
    planned = render(example())
    assert "A rate less than 2.8 points from 50 % would often be missed" in planned
    assert ">4.7 points<" in planned
    assert "A rate less than 4.7 points from 50 % would often be missed" in render(
        replace(example(), smallest_detectable=None)
    )


def test_two_models_of_one_role_have_different_marks_and_shares_end_at_their_bounds():
    wide = Interval(value=0.1, low=-0.2, high=0.4, n=9, clusters=9)
    dots = [Dot(role="base", series=name, interval=wide) for name in ("small", "large")]
    axis = DotAxis(
        title="t", bounds=(0, 1), inside=(0, 1), key=[("base", "Small"), ("base", "Large")], order=["small", "large"]
    )
    drawing = dot_chart([Row(label="r", dots=dots)], axis, "says")
    assert drawing.count('r="4"') == 2 * 4  # two rings in the row and two in the key, at both widths
    assert drawing.count('r="1.3"') == 2 * 2  # of these the second of each has a dot inside
    assert MINUS not in drawing  # no tick below zero
    free = dot_chart([Row(label="r", dots=dots)], replace(axis, bounds=None, order=()), "says")
    assert free.count('r="1.3"') == 2
    assert MINUS in free
