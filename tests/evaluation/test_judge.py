"""The judge client against a real HTTP server on this machine, which misbehaves in every way a judge can."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from preceptor.evaluation.judge import Endpoint, EndpointTruthJudge, JudgeError, PairJudge, failures, verdict
from preceptor.evaluation.truthfulness import Question, figures


@pytest.fixture
def judged():
    """A server; `judged.reply` is called with the user's text and gives text, (status, body), or None to hang."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            reply = server.reply(body["messages"][-1]["content"])
            if reply is None:
                server.release.wait()
                reply = "Verdict: A"
            status, data = reply if isinstance(reply, tuple) else (200, completion(reply))
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                server.gone += 1  # the client gave up waiting

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply, server.release, server.gone = [], lambda text: "Verdict: A", threading.Event(), 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def completion(text) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def judge(server, **settings) -> PairJudge:
    settings = {"timeout": 600.0, "retries": 1, "pause": 0.01} | settings
    return PairJudge(endpoint=Endpoint(url=server.url, model="j", **settings))


def prefers(word: str):
    """A judge that likes the answer with a word in it, whatever its place."""

    def reply(text: str) -> str:
        a, b = (text.split(f"[Answer {place}]")[1].split("[End")[0] for place in "AB")
        if (word in a) == (word in b):
            return "Both are alike.\nVerdict: tie"
        return f"One is better.\nVerdict: {'A' if word in a else 'B'}"

    return reply


def test_consistent_verdicts_count(judged):
    judged.reply = prefers("good")
    found = judge(judged).compare_all([("p", "good", "x"), ("p", "x", "good"), ("p", "x", "y")])
    assert [one.outcome for one in found] == [1.0, 0.0, 0.5]
    assert failures(found) == {}
    assert len(judged.asked) == 6
    assert judged.asked[0]["temperature"] == 0


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ("Verdict: A", "contradiction"),  # always the one shown first
        ("blah blah", "rubbish"),
        ("", "rubbish"),
        ("A is better", "rubbish"),
        ("Verdict: Absolutely", "rubbish"),
        ("Verdict: a tie", "rubbish"),
        ("Verdict: A\nVerdict: B", "rubbish"),
        ("I'm sorry, but I cannot help with judging this.", "refusal"),
        ((200, b"<html>"), "rubbish"),
        ((200, b'{"choices": []}'), "rubbish"),
        ((200, completion(None)), "rubbish"),
        ((401, b"{}"), "rejected"),
        ((500, b"{}"), "unreachable"),
    ],
)
def test_a_failing_judge_is_missing_and_counted(judged, reply, failure):
    judged.reply = lambda text: reply
    found = judge(judged).compare_all([("p", "one", "two")] * 3)
    assert [one.outcome for one in found] == [None] * 3
    assert failures(found) == {failure: 3}


def test_a_hanging_judge_times_out(judged):
    """The server replies when the test is over, so that a client without a time of its own would wait for ever."""
    judged.reply = lambda text: None
    found = judge(judged, timeout=0.2).compare("p", "one", "two")
    assert found.outcome is None
    assert found.failure == "timeout"


def test_an_absent_judge_is_unreachable(judged):
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="j", retries=1, pause=0.01)
    assert PairJudge(endpoint=endpoint).compare("p", "one", "two").failure == "unreachable"


def test_tries_again_after_a_server_error(judged):
    replies = iter([(503, b"{}"), (429, b"{}"), "Verdict: tie", "Verdict: tie"])
    judged.reply = lambda text: next(replies)
    assert judge(judged, retries=2).compare("p", "one", "two").outcome == 0.5


def test_braces_in_an_answer_are_left_alone(judged):
    judged.reply = prefers("{b}")
    assert judge(judged).compare("{a}", "{b} {prompt}", "x").outcome == 1.0


def test_key_is_sent(judged):
    seen = []
    judged.reply = lambda text: "Verdict: tie"
    handler = judged.RequestHandlerClass
    original = handler.do_POST

    def remember(self):
        seen.append(self.headers["Authorization"])
        original(self)

    handler.do_POST = remember
    judge(judged, key="k").compare("p", "a", "b")
    assert seen == ["Bearer k"] * 2


def test_verdict_reading():
    assert verdict("Because.\n**Verdict:** B", ("A", "B", "tie")) == "B"
    assert verdict("verdict: Tie.", ("A", "B", "tie")) == "tie"
    with pytest.raises(JudgeError):
        verdict("The verdict is out", ("A", "B"))


def test_truth_judge_reports_what_failed(judged):
    questions = [
        Question(text=text, category="", adversarial=True, correct=("yes",), incorrect=("no",)) for text in "abcd"
    ]
    replies = {"fine": "Verdict: yes", "wrong": "Verdict: no", "odd": "hm", "no": "I cannot help with that."}
    judged.reply = lambda text: next(reply for word, reply in replies.items() if f"answered: {word}" in text)
    failed = Counter()
    asked = EndpointTruthJudge(endpoint=Endpoint(url=judged.url, model="j", timeout=600.0), failed=failed)
    true, info, both = figures(asked, questions, ["fine", "wrong", "odd", "no"])
    assert (true.interval.value, true.interval.n, true.missing) == (0.5, 2, 2)
    assert both.missing == 2
    assert failed == {"rubbish": 2, "refusal": 2}
    assert info.metric == "informative"
