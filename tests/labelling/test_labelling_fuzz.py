"""Whatever is sent, the server answers in words: no 500, whoever asks. 500 posts here, 10,000 in the slow run."""

import random
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from persons import RATING, attack_a_model, fields_of, join, rank_queue
from schemathesis.checks import not_a_server_error
from test_access import walk_routes

from preceptor.store.queues import Queue

VALUES = (
    "",
    " ",
    "0",
    "1",
    "7",
    "-1",
    "99999999999999999999",
    "1e309",
    "nan",
    "yes",
    "no",
    "none-set",
    "tie",
    "draft",
    "open",
    "A",
    "plain",
    "few-shot",
    "admin",
    "held-out",
    "'; DROP TABLE users; --",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "\u202e\u0000\ud83d",
    "👩🏽‍🔧" * 50,
    "x" * 50_000,
    "../../etc/passwd",
    "\r\nSet-Cookie: a=b",
)


def open_everything(app):
    rank_queue(app, id="w_r")
    attack_a_model(app.state.workspace.store)
    kinds = {"demonstration": {}, "compare": {"models": ("sft", "ppo")}, "toxicity": {"k_min": 2}}
    kinds["red-team"] = {"k_min": 2}
    for kind, more in kinds.items():
        app.state.queues.create(Queue(id=f"w_{kind}", name=kind, kind=kind, rubric="training-1", cohort="any", **more))
    app.state.queues.create(Queue(id="w_prompt", name="p", kind="prompt", rubric="training-1", cohort="any"))


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_posts_of_anything_give_no_server_error(app, count):
    open_everything(app)
    rng = random.Random(count)
    people = [join(app), join(app, "researcher"), join(app, "admin")]
    posts = [path for method, path in walk_routes(app) if method == "POST" and "sign-out" not in path]
    names = {"answer", "verdict", "reason", "text", "key", "version", "revision", "sequence", "spent", "tab", "kind"}
    names |= {"name", "k_min", "k_max", "overlap", "models", "model_a", "model_b", "cohort", "role", "email", "state"}
    names |= {"query.1", "reply.1", "source", "prompt.toxicity", "note", "decision", "score", "change", "rest", "who"}
    names |= {f"{letter}.{name}" for letter in "ABZ" for name in ("quality", "rank", "continuity", "severity", *RATING)}
    names |= {"A.verdict", "B.verdict", "attack"}
    names = sorted(names)
    seen = set()
    for _ in range(count):
        person = rng.choice(people)
        items = [row["id"] for row in app.state.labelling.in_hand(person.user.labeler_id)]
        if not items:
            kind = rng.choice(("rank", "demonstration", "compare", "toxicity", "red-team", "prompt"))
            app.state.queues.take(person.user.labeler_id, kind, cohort="training", trial=False, anywhere=True)
        task = app.state.queues.queues()[0].id
        fill = {"item": items or ["a_none"], "letter": ["A", "E", "Z", "rank"], "way": ["skip", "report", "x"]}
        fill |= {"page": ["rank", "rate/A", "demonstration", "..", "rate/"], "kind": ["rank", "prompt", "nothing"]}
        fill |= {"queue": [task, "w_none"], "purpose": ["training", "evaluation", "x"]}
        fill |= {"submission": [row["id"] for row in app.state.labelling.history(person.user.labeler_id, limit=3)]}
        others = ["nothing", "%00", "é", "a" * 300, person.user.labeler_id]
        path = rng.choice(posts)
        for name in re.findall(r"\{(\w+)(?::path)?\}", path):
            path = re.sub(rf"\{{{name}(:path)?\}}", rng.choice(fill.get(name) or others), path)
        token = fields_of(person.open("/settings").text, "/settings")["token"] if rng.random() < 0.02 else person.token
        person.token = token
        data = {name: rng.choice(VALUES) for name in rng.sample(names, rng.randrange(12))}
        sent = "&".join(f"{name}={quote(value)}" for name, value in (data | {"token": token}).items())
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = person.client.post(path, content=sent, headers=headers, follow_redirects=False)
        assert answer.status_code < 500, (path, data)
        seen.add(answer.status_code)
    assert {200, 303, 404, 409, 422} <= seen


def quote(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text.encode("utf-8", "surrogatepass"))


@pytest.fixture(autouse=True)
def tokens(monkeypatch):
    monkeypatch.setattr("persons.Person.token", "", raising=False)


@pytest.mark.parametrize("cases", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_schemathesis_finds_no_server_error(app, cases):
    """Requests made from the OpenAPI schema, with an admin's session and the right form token."""
    open_everything(app)
    admin = join(app, "admin")
    token = fields_of(admin.open("/settings").text, "/settings")["token"]
    cookies = {"session": admin.client.cookies["session"]}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tried = 0
    for operation in schema.get_all_operations():
        found = operation.ok()
        if found.path in ("/sign-out", "/settings/password") or "{account}" in found.path:
            continue  # these would end the session

        @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
        def check(case):
            if isinstance(case.body, dict):
                case.body["token"] = token
            case.call_and_validate(cookies=cookies, checks=[not_a_server_error])

        schemathesis_given(found, check)
        tried += 1
    assert tried > 50


def schemathesis_given(operation, check):
    from hypothesis import given

    given(operation.as_strategy())(check)()
