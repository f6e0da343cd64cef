import math

import numpy as np
import pytest
from models import Scripted

from preceptor.errors import UserError
from preceptor.evaluation import tasks, truth_judges, truthfulness
from preceptor.evaluation.ngrams import NgramClassifier, letter_grams, word_grams
from preceptor.evaluation.reading import read_table

SKY = truthfulness.Question(
    text="What colour is the sky?",
    category="x",
    adversarial=True,
    correct=("The sky is blue", "Blue"),
    incorrect=("The sky is green", "Green"),
)


def test_prompts_hold_what_their_names_say():
    for kind, (instruction, examples) in {
        "qa": (False, 6),
        "instruction": (True, 0),
        "qa+instruction": (True, 6),
    }.items():
        text = truthfulness.prompt(kind, "Why?")
        assert text.startswith(truthfulness.INSTRUCTION) is instruction
        assert text.count("Q: ") == examples + 1
        assert text.endswith("Q: Why?\nA:")
    with pytest.raises(UserError, match="qa\\+instruct'"):
        truthfulness.prompt("qa+instruct", "Why?")


def test_answers_are_cut_at_the_first_newline():
    model = Scripted(say=lambda prompt: " Blue.\nQ: Next?")
    assert truthfulness.answers(model, [SKY], "qa") == ["Blue."]
    assert model.calls == [truthfulness.prompt("qa", SKY.text)]


def test_lexical_judge():
    judge = truth_judges.LexicalJudge()
    said = ["The sky is blue.", "It is green", "I have no comment.", "", "Bananas"]
    true = judge.true([SKY] * 5, said)
    assert [value > 0.5 for value in true] == [True, False, True, False, False]
    assert judge.informative([SKY] * 5, said) == [1, 1, 0, 0, 1]
    # "It is green": F1 with "Green" 2 * (1/3) / (4/3) = .5; with "The sky is green" 2 of 3 and 3 words: 2/3;
    # with "The sky is blue" 1 of 3 and 3 words: 1/3. So (1 + 1/3 - 2/3) / 2.
    assert true[1] == pytest.approx(1 / 3)


def test_figures_leave_missing_verdicts_out():
    class Judge:
        name = version = hash = "x"

        def true(self, questions, said):
            return [0.9, 0.2, None, 0.9]

        def informative(self, questions, said):
            return [0.9, 0.9, 0.9, None]

    true, info, both = truthfulness.figures(Judge(), [SKY] * 4, ["a"] * 4)
    assert true.interval.value == pytest.approx(2 / 3)
    assert (true.missing, info.missing, both.missing) == (1, 1, 2)
    assert both.interval.value == 0.5


def test_multiple_choice_by_hand():
    item = truthfulness.Choices(question="q", choices=("a", "b", "c"), right=(True, True, False))
    scores = [(math.log(0.2), 1), (math.log(0.1), 5), (math.log(0.3), 1)]
    assert truthfulness.mc2(item, scores) == pytest.approx(0.5)
    assert truthfulness.mc1(item, scores) is False
    assert truthfulness.mc1(item, [(-1.0, 9), (-2.0, 1), (-3.0, 1)]) is True


def test_choice_figures_score_with_the_qa_prompt():
    item = truthfulness.Choices(question="Why?", choices=("yes indeed", "no"), right=(True, False))
    model = Scripted(score=lambda context, text: 0.0 if text == " yes indeed" else -50.0)
    one, two = truthfulness.choice_figures(model, [item] * 3, [item] * 3)
    assert one.interval.value == 1.0
    assert two.interval.value == pytest.approx(1.0)
    assert model.calls[0] == (truthfulness.prompt("qa", "Why?"), " yes indeed")


def test_classifier_learns_shares_and_saves(tmp_path):
    bags = [["x"], ["y"]] * 50
    model = NgramClassifier.fit(bags, [0.8, 0.1] * 50, strength=1e6, bits=8)
    chance = model.probability([["x"], ["y"]])
    assert chance == pytest.approx([0.8, 0.1], abs=0.01)
    model.save(tmp_path / "m.npz")
    again = NgramClassifier.load(tmp_path / "m.npz")
    assert again.hash == model.hash
    assert np.array_equal(again.probability([["x", "z"]]), model.probability([["x", "z"]]))
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(UserError, match=r"bad\.npz: not a saved classifier"):
        NgramClassifier.load(tmp_path / "bad.npz")


def test_classifier_gradient_is_at_its_minimum():
    """Slow twin: the loss written out for one feature, minimised on a fine grid."""
    wanted = [1.0, 1.0, 0.0, 0.0, 0.0]
    bags = [["x"], ["x"], ["x"], [], []]
    model = NgramClassifier.fit(bags, wanted, strength=2.0, bits=4)

    def loss(w, b):
        total = w * w / 4
        for bag, target in zip(bags, wanted):
            logit = (w if bag else 0.0) + b
            total += math.log1p(math.exp(logit)) - target * logit
        return total

    grid = np.linspace(-4, 4, 401)
    best = min((loss(w, b), w, b) for w in grid for b in grid)
    found = model.probability([["x"], []])
    assert found == pytest.approx([1 / (1 + math.exp(-best[1] - best[2])), 1 / (1 + math.exp(-best[2]))], abs=0.01)


def test_grams():
    assert word_grams("A cat", 2) == ["<", "a", "cat", ">", "< a", "a cat", "cat >"]
    assert letter_grams("ab", (3,)) == ["# ab", "#ab "]


def test_judges_against_the_published_verdicts(shared_data, paper_samples):
    """The released verdicts come from the authors' fine-tuned GPT-3 judges; figures in docs/evaluation-parity.md."""
    folder = shared_data / "truthfulqa"
    questions = truthfulness.read_questions(folder / "TruthfulQA_v0.csv.gz")
    assert len(questions) == 817
    known = {question.text: question for question in questions}
    rows = read_table(paper_samples / "truthful_qa_samples.csv.gz")
    asked, said = [known[row["question"]] for row in rows], [row["answer"] for row in rows]
    published = {key: np.array([float(row[key]) > 0.5 for row in rows]) for key in ("true", "info")}
    trained = truth_judges.TrainedJudge.train(
        folder / "finetune_truth.jsonl.gz", folder / "finetune_info.jsonl.gz", questions
    )
    agreement = {}
    for judge in (trained, truth_judges.LexicalJudge()):
        true, info = np.array(judge.true(asked, said)) > 0.5, np.array(judge.informative(asked, said)) > 0.5
        agreement[judge.name] = ((true == published["true"]).mean(), (info == published["info"]).mean())
    assert agreement["trained n-grams"] == pytest.approx((0.828, 0.955), abs=0.005)
    assert agreement["lexical"] == pytest.approx((0.779, 0.909), abs=0.005)


def test_choices_of_the_released_file(shared_data):
    path = shared_data / "truthfulqa" / "mc_task.json.gz"
    first, second = truthfulness.read_choices(path, "mc1"), truthfulness.read_choices(path, "mc2")
    assert len(first) == len(second) == 790
    assert all(sum(item.right) == 1 for item in first)


def test_a_trained_judge_is_trained_once_for_all_prompts_and_models(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(tasks.TrainedJudge, "train", lambda *given: made.append(given) or object())
    monkeypatch.setattr(tasks.truthfulness, "read_questions", lambda path: [])
    paths = [tmp_path / name for name in "qti"]
    first = tasks._trained_judge(*paths, "hash of these files")
    assert tasks._trained_judge(*paths, "hash of these files") is first
    assert tasks._trained_judge(*paths, "hash of others") is not first
    assert [given[:2] for given in made] == [tuple(paths[1:])] * 2
    tasks._trained_judge.cache_clear()
