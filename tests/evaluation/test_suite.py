import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from models import Scripted

from preceptor.errors import UserError
from preceptor.evaluation.recording import Recorded
from preceptor.evaluation.results import Figure, TaskResult, mean, rate
from preceptor.evaluation.suite import run_suite
from preceptor.evaluation.tasks import TASKS, Task, _first_of
from preceptor.types import Message


def count_words(subject, paths, settings):
    prompts = paths[0].read_text().split()[: settings["limit"]]
    said = subject.generate(prompts, max_new_tokens=5)
    return [mean("words", [float(len(text.split())) for text in said])], [{"prompt": prompts[0], "answer": said[0]}]


def task(name="words", measure=count_words, file="p.txt", **suites):
    files = partial(_first_of, (("set", file),))
    return Task(name=name, files=files, measure=measure, settings=suites or {"quick": {"limit": 3}})


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "p.txt").write_text("a b c d")
    return tmp_path / "data"


def test_figures_carry_their_provenance(data, tmp_path):
    model = Scripted(say=lambda prompt: "one two", name="m")
    (result,) = run_suite(model, "quick", data, tmp_path / "cache", tasks=[task()])
    assert (result.name, result.metric, result.value, result.n) == ("words", "words", 2.0, 3)
    assert (result.model, result.model_hash, result.settings) == ("m", model.hash, {"limit": 3})
    assert len(result.task_hash) == 64
    assert list(result.examples) == [{"prompt": "a", "answer": "one two"}]


def test_cached_until_model_data_settings_or_version_change(data, tmp_path):
    model = Scripted(say=lambda prompt: "one two")

    def run(*tasks, subject=model):
        subject.calls.clear()
        results = run_suite(subject, "quick", data, tmp_path / "cache", tasks=tasks)
        return results, len(subject.calls)

    first, asked = run(task())
    assert asked == 3
    again, asked = run(task())
    assert asked == 0
    assert [result.to_json() for result in again] == json.loads(json.dumps([result.to_json() for result in first]))
    assert run(task(quick={"limit": 4}))[1] == 1  # three of the four answers are on file
    assert run(task(), subject=Scripted(say=lambda prompt: "x", name="other"))[1] == 3
    (data / "set" / "p.txt").write_text("a b z")
    results, asked = run(task())
    assert asked == 1
    assert results[0].task_hash != first[0].task_hash


def test_what_cannot_be_measured_is_listed_with_the_reason(data, tmp_path):
    def broken(subject, paths, settings):
        raise RuntimeError("out of memory")

    def unscored(subject, paths, settings):
        return [rate("none", [None, None])], []

    tasks = [task("absent", file="q.txt"), task("broken", broken), task("unscored", unscored), task()]
    absent, failed, empty, fine = run_suite(Scripted(), "quick", data, tmp_path / "cache", tasks=tasks)
    assert absent.value is None
    assert absent.not_measured.endswith("there is no set/q.txt, plain or .gz")
    assert failed.not_measured == "failed: RuntimeError: out of memory"
    assert empty.not_measured == "none of 2 items could be scored"
    assert empty.missing == 2
    assert fine.not_measured == ""


def test_a_failure_is_tried_again(data, tmp_path):
    mood = ["bad", "good"]

    def moody(subject, paths, settings):
        if mood.pop(0) == "bad":
            raise RuntimeError("no")
        return [mean("m", [1.0, 2.0])], []

    assert run_suite(Scripted(), "quick", data, tmp_path, tasks=[task(measure=moody)])[0].not_measured
    assert run_suite(Scripted(), "quick", data, tmp_path, tasks=[task(measure=moody)])[0].value == 1.5


def test_a_figure_whose_judge_failed_is_shown_and_measured_again(data, tmp_path):
    asked = []

    def judged(subject, paths, settings):
        asked.append(1)
        return [replace(mean("m", [1.0, None]), passing=len(asked) == 1)], []

    for wanted in (1, 2, 2):
        assert run_suite(Scripted(), "quick", data, tmp_path, tasks=[task(measure=judged)])[0].missing == 1
        assert len(asked) == wanted


class Killed(BaseException):
    pass


def test_killed_and_restarted_repeats_nothing_finished(data, tmp_path, monkeypatch):
    monkeypatch.setattr("preceptor.evaluation.recording.BATCH", 2)
    (data / "set" / "p.txt").write_text(" ".join(f"w{n}" for n in range(10)))
    said = []

    def say(prompt):
        said.append(prompt)
        if len(said) == 5:
            raise Killed
        return "one"

    mine = [task(quick={"limit": 10}), task("second", quick={"limit": 10})]
    with pytest.raises(Killed):
        run_suite(Scripted(say=say), "quick", data, tmp_path / "cache", tasks=mine)
    file = next((tmp_path / "cache").glob("said-*"))
    file.write_text(file.read_text() + '["torn by the k')
    results = run_suite(Scripted(say=say), "quick", data, tmp_path / "cache", tasks=mine)
    assert [result.value for result in results] == [1.0, 1.0]
    # Four answers were on file, w4 was cut short: it alone is asked twice, and the second task asks nothing at all.
    assert said == ["w0", "w1", "w2", "w3", "w4", "w4", "w5", "w6", "w7", "w8", "w9"]
    run_suite(Scripted(say=say), "quick", data, tmp_path / "cache", tasks=mine)
    assert len(said) == 11


RUN = """
import sys, time
from functools import partial
from pathlib import Path

from models import Scripted
from preceptor.evaluation.results import mean
from preceptor.evaluation.suite import run_suite
from preceptor.evaluation.tasks import Task, _first_of

root = Path(sys.argv[1])
log = (root / "asked.txt").open("a")


def say(prompt):
    print(prompt, file=log, flush=True)
    if prompt == "b-17" and len(sys.argv) > 2:
        time.sleep(3600)  # until it is killed
    return "one two"


def measure(name, subject, paths, settings):
    prompts = [f"{name}-{number}" for number in range(60)]
    said = subject.generate(prompts, max_new_tokens=5)
    return [mean("words", [float(len(text.split())) for text in said])], []


files = partial(_first_of, (("set", "p.txt"),))
tasks = [Task(name=n, files=files, measure=partial(measure, n), settings={"quick": {}}) for n in ("a", "b")]
import preceptor.evaluation.recording as recording
recording.BATCH = 4
found = run_suite(Scripted(say=say), "quick", root / "data", root / "cache", tasks=tasks)
print([result.value for result in found])
"""


def test_a_real_kill_repeats_no_batch_that_was_finished(data, tmp_path):
    """SIGKILL in the middle of the second task: the first is not asked again, and of the second one batch at most."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([*command, "wait"], env=environment, stdout=subprocess.DEVNULL)
    asked = tmp_path / "asked.txt"
    while process.poll() is None and (not asked.exists() or "b-17\n" not in asked.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = asked.read_text().split()
    assert 70 <= len(before) < 120
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2.0, 2.0]"
    after = asked.read_text().split()[len(before) :]
    assert not [prompt for prompt in after if prompt.startswith("a-")]
    assert len(before) + len(after) - 120 <= 4
    assert set(before) | set(after) == {f"{name}-{number}" for name in "ab" for number in range(60)}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert asked.read_text().split() == before + after


def test_judges_and_scorers_of_ones_own_are_settings_of_the_tasks_that_use_them(data, tmp_path):
    seen = []

    def look(subject, paths, settings):
        seen.append(dict(settings))
        return [mean("m", [1.0, 2.0])], []

    verdicts = tmp_path / "v.jsonl"
    verdicts.write_text("{}")
    own = {"judge": "http://127.0.0.1:9/v1 m", "verdicts": str(verdicts)}
    tasks = [replace(task("takes", look), takes=("verdicts",)), task("leaves", look)]
    run_suite(Scripted(), "quick", data, tmp_path / "cache", tasks=tasks, own=own)
    assert [set(settings) for settings in seen] == [{"limit", "verdicts", "verdicts hash"}, {"limit"}]
    verdicts.write_text("{} ")  # another file under the same name: asked anew
    run_suite(Scripted(), "quick", data, tmp_path / "cache", tasks=tasks, own=own)
    assert len(seen) == 3
    with pytest.raises(UserError, match="no judge or scorer 'oracle'"):
        run_suite(Scripted(), "quick", data, tmp_path, own={"oracle": "x"})
    with pytest.raises(UserError, match=r"nowhere: no such file or folder; toxicity is the folder"):
        run_suite(Scripted(), "quick", data, tmp_path, own={"toxicity": f"{tmp_path / 'nowhere'}:toxic"})


def test_recorded_answers_keep_draws_apart(tmp_path):
    numbers = iter(range(100))
    model = Scripted(say=lambda prompt: str(next(numbers)), reply=lambda talk: str(next(numbers)))
    recorded = Recorded(model, tmp_path)
    assert recorded.generate(["p", "p"], max_new_tokens=1) == ["0", "0"]  # greedy: asked once
    drawn = recorded.generate(["p", "p"], max_new_tokens=1, temperature=1.0)
    assert drawn == ["1", "2"]
    assert recorded.generate(["p", "p"], max_new_tokens=1, temperature=1.0) == drawn
    assert recorded.generate(["p", "p"], max_new_tokens=1, temperature=1.0, seed=1) == ["3", "4"]
    assert recorded.generate(["p"], max_new_tokens=2) == ["5"]
    talk = [Message(role="user", content="p")]
    assert recorded.answer([talk], max_new_tokens=1) == ["6"]
    assert recorded.loglikelihood([("a", "bc"), ("a", "bc")]) == [(-2.0, 1)] * 2
    assert recorded.asked == 8
    again = Recorded(Scripted(), tmp_path)
    again.hash = model.hash
    assert again.generate(["p", "p"], max_new_tokens=1, temperature=1.0) == drawn


def test_recorded_refuses_a_model_that_drops_answers(tmp_path):
    class Drops(Scripted):
        def generate(self, prompts, **settings):
            return []

    with pytest.raises(ValueError, match="0 replies to 1 questions"):
        Recorded(Drops(), tmp_path).generate(["p"], max_new_tokens=1)


def test_user_mistakes(data, tmp_path):
    with pytest.raises(UserError, match="no suite 'fast'"):
        run_suite(Scripted(), "fast", data, tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        run_suite(Scripted(), "quick", data / "nowhere", tmp_path)


def test_progress_names_every_task(data, tmp_path):
    seen = []
    run_suite(
        Scripted(), "quick", data, tmp_path, progress=lambda *step: seen.append(step), tasks=[task("a"), task("b")]
    )
    assert seen == [("a", 0, 2), ("b", 1, 2), ("done", 2, 2)]


def test_task_results_survive_json():
    figure = TaskResult(
        name="n", metric="m", value=1.0, low=None, high=2.0, n=3, settings={"a": 1}, examples=[{"p": 1}]
    )
    assert TaskResult.from_json(json.loads(json.dumps(figure.to_json()))) == figure
    assert isinstance(mean("m", [1.0, None]), Figure)


def test_every_task_is_in_all_and_names_are_unique():
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert all({"paper", "all"} <= set(task.settings) for task in TASKS)
    assert sum("quick" in task.settings for task in TASKS) >= 10


def test_quick_suite_on_the_public_files(shared_data, tmp_path):
    model = Scripted(
        say=lambda prompt: " an answer of some words",
        reply=lambda talk: f"Here is an answer about {talk[-1].content[:20]} with a few more words in it.",
    )
    results = run_suite(model, "quick", shared_data, tmp_path)
    assert [result.name for result in results if result.not_measured] == []
    named = {(result.name, result.metric): result for result in results}
    assert named["reported failure modes", "answered in another language"].value > 0.8
    assert {result.name for result in results if any(row.get("fault") for row in result.examples)} >= {
        "closed-domain hallucination", "TruthfulQA, qa prompt", "IFEval", "reported failure modes", "depth of refusal"
    }  # fmt: skip
    assert all(result.low <= result.value <= result.high for result in results if result.low is not None)


def test_a_small_context_leaves_items_out_and_says_so_but_loses_no_task(shared_data, tmp_path):
    """900 letters: some passages, attacks and prompts of every set are longer, and no task falls for it."""
    model = Scripted(say=lambda prompt: " words", reply=lambda talk: "Some words make a sentence.", context=900)
    results = run_suite(model, "quick", shared_data, tmp_path)
    unmeasured = {(result.name, result.metric) for result in results if result.not_measured}
    assert {name for name, _ in unmeasured} == {"depth of refusal"}
    short = {result.name for result in results if result.missing and "longer than the model's context" in result.note}
    assert short >= {"squadv2, 0-shot", "closed-domain hallucination", "depth of refusal"}
    assert all("longer than the model's context" in r.not_measured for r in results if r.not_measured)


def test_all_suite_lists_what_is_absent(tmp_path):
    (tmp_path / "empty").mkdir()
    results = run_suite(Scripted(reply=lambda talk: "x"), "paper", tmp_path / "empty", tmp_path / "cache")
    absent = [result.name for result in results if result.not_measured]
    assert "quac, 0-shot" in absent
    assert "IFEval" in absent
    assert {result.name for result in results if not result.not_measured} == {"reported failure modes", "diversity"}


def test_behaviours_of_advbench_do_where_there_is_no_harmbench(tmp_path):
    (tmp_path / "advbench").mkdir()
    (tmp_path / "advbench" / "advbench_behaviors.csv").write_text(
        "BehaviorID,Behavior,Category\nadv_0,Write a thing that is bad,\n", encoding="utf-8"
    )
    (task,) = [task for task in TASKS if task.name == "depth of refusal"]
    model = Scripted(reply=lambda talk: "Sure, here is a thing that is bad, in some more words than eight.")
    results = run_suite(model, "quick", tmp_path, tmp_path / "cache", tasks=[task])
    assert {result.metric: result.value for result in results}["complied, harmful, direct"] == 1.0
    assert results[0].examples[0]["fault"] == "complied, harmful, direct"
    asked = len(model.calls)
    (tmp_path / "jailbreakbench").mkdir()
    (tmp_path / "jailbreakbench" / "benign-behaviors.csv").write_text(
        "Index,Goal,Target,Behavior,Category,Source\n0,Write about a thing,Sure,Thing,Fraud,O\n", encoding="utf-8"
    )
    run_suite(model, "quick", tmp_path, tmp_path / "cache", tasks=[task])
    assert "Write about a thing" in {talk[-1].content for talk in model.calls[asked:]}
