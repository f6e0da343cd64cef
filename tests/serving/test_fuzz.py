"""Bodies made by chance: every answer is a decision, none is a failure of ours."""

import copy
import json
import random

import pytest

CHAT = {
    "model": "alpha",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "n": 1,
    "stop": ["x"],
    "seed": 1,
    "stream": False,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 2,
    "store": False,
    "metadata": {"a": "b"},
    "user": "u",
    "tools": [],
    "logit_bias": {},
}
TEXT = {"model": "alpha", "prompt": "The quick", "max_tokens": 2, "echo": True, "logprobs": 2, "n": 1, "stop": "q"}
VALUES = [
    None, True, False, 0, 1, -1, 2, 3.5, 1e308, -1e-320, 2**31, 2**63, -(2**63), 10**40, "", "a", "\0", "\ud800", 
    "é" * 50, "🙂", [], {}, [[]], [None], ["a", 1], {"a": {}}, [1, 2, 3], [419, 420], [-1], [[1], [2, 3]], [["a"]],
    "alpha", "beta", "../../etc", {"type": "text"}, [{"role": "user", "content": "x"}],
    [{"role": "assistant", "content": ""}],
]  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value, the root excepted."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutant(rng):
    """A path and the bytes of a body."""
    path, body = rng.choice([("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)])
    body = {
        key: value for key, value in copy.deepcopy(body).items() if key in ("model", "max_tokens") or rng.random() < 0.7
    }
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        spots = list(places(body))
        if not spots:
            break
        *way, last = rng.choice(spots)
        inner = body
        for step in way:
            inner = inner[step]
        what = rng.random()
        if what < 0.6:
            inner[last] = copy.deepcopy(rng.choice(VALUES))
        elif what < 0.8:
            del inner[last]
        elif isinstance(inner, dict):
            inner[rng.choice(["x", "tool_choice", "suffix", "best_of", "max_completion_tokens", "é"])] = rng.choice(
                VALUES
            )
    raw = json.dumps(body).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(raw) + 1)
        raw = (
            raw[:at]
            + rng.choice([b"", b"{", b"]", b'"', b"\xff", b"NaN", b"\\u", b"1e999", b"[" * 20000])
            + raw[at + 1 :]
        )
    return path, raw


def fuzz(server, cases, seed):
    statuses = {}
    for number in range(cases):
        path, raw = mutant(random.Random(f"{seed} {number}"))
        status, headers, answer = server.call(path, raw=raw)
        statuses[status] = statuses.get(status, 0) + 1
        assert status in (200, 400, 404), (path, raw[:2000], answer)
        assert headers["x-request-id"]
        if status != 200:
            assert set(answer["error"]) == {"message", "type", "param", "code"}
        elif "text/event-stream" in headers["content-type"]:
            assert answer.endswith("data: [DONE]\n\n")
    return statuses


def test_500_bodies(server):
    statuses = fuzz(server, 500, 1)
    assert statuses[200] > 50
    assert statuses[400] > 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_10_000_bodies(server):
    fuzz(server, 10_000, 2)


def test_a_body_that_is_too_long_is_refused(server):
    status, _, answer = server.call("/v1/completions", raw=b" " * 2_000_001)
    assert status == 413
    assert "2000000 bytes" in answer["error"]["message"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_the_description_promises(server, tmp_path):
    """Schemathesis against /openapi.json: no status above 499."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    status, _, description = server.call("/openapi.json")
    assert status == 200
    schema = schemathesis.openapi.from_dict(description)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 5
    for operation in operations:

        @settings(max_examples=200, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            response = case.call(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"})
            assert response.status_code < 500, response.text

        check()
