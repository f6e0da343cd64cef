"""How the pages start: the one-time link, cookies by address, /health, one log line for each request."""

import json
import logging
import re

import pytest
from persons import PASSWORD, Person, fields_of
from sqlalchemy.exc import OperationalError

from preceptor.config import WebConfig
from preceptor.labelling.app import create_app
from preceptor.labelling.serve import build, greet

ADDRESS = "http://127.0.0.1:8080"


def link_of(app, workspace, capsys) -> str:
    greet(app, workspace, "127.0.0.1", 8080)
    found = re.search(rf"{ADDRESS}(/invite/[\w-]+)", capsys.readouterr().out)
    return found[1] if found else ""


def test_the_first_starts_print_a_link_that_makes_one_admin(workspace, capsys):
    app = build(workspace, WebConfig())
    first, second = link_of(app, workspace, capsys), link_of(app, workspace, capsys)
    person = Person(app, ADDRESS)
    person.open(first, 410)  # a newer start made a newer link
    person.open(second)
    person.send(second, name="Ines", email="ines@example.org", password=PASSWORD, agree="yes")
    person.open("/accounts")
    Person(app, ADDRESS).open(second, 410)
    assert link_of(app, workspace, capsys) == ""


@pytest.mark.parametrize(
    ("config", "cookie"),
    [
        (WebConfig(), "session"),
        (WebConfig(host="0.0.0.0"), "__Host-session"),
        (WebConfig(secure_cookies=True), "__Host-session"),
        (WebConfig(host="0.0.0.0", secure_cookies=False), "session"),
    ],
)
def test_cookies_are_for_https_wherever_others_can_come_in(workspace, config, cookie):
    assert build(workspace, config).state.gate.session_cookie == cookie


def test_on_loopback_only_loopback_names_are_answered(workspace):
    app = build(workspace, WebConfig(hosts=("labels.example",)))
    for address, status in ((ADDRESS, 200), ("http://labels.example", 200), ("http://evil.example", 400)):
        assert Person(app, address).client.get("/health").status_code == status


def test_health_says_when_the_database_does_not_answer(app, monkeypatch):
    assert Person(app).client.get("/health").json() == {"status": "ok"}

    def gone():
        raise OperationalError("SELECT 1", {}, Exception("the disk is gone"))

    monkeypatch.setattr(app.state.accounts.store, "read", gone)
    answer = Person(app).client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "the database does not answer"


def test_a_request_is_one_line_of_json_without_links_and_words(workspace, caplog):
    app = create_app(workspace)
    link = f"/invite/{app.state.accounts.invite('preceptor')}"
    person = Person(app)
    with caplog.at_level(logging.INFO, "preceptor.web"):
        person.open(link)
        form = fields_of(person.page.text) | {"name": "Jo", "email": "jo@example.org", "password": PASSWORD}
        person.client.post(link, data=form | {"agree": "yes"}, follow_redirects=False)
        answer = person.client.get("/settings?note=secret")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "preceptor.web"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/invite/…", 200),
        ("POST", "/invite/…", 303),
        ("GET", "/settings", 200),
    ]
    assert lines[2]["id"] == answer.headers["x-request-id"]
    assert lines[2]["user"] == app.state.accounts.user_by_email("jo@example.org").id
    assert all(line["ms"] >= 0 for line in lines)
    for words in (link, PASSWORD, "secret", "jo@example.org", form["token"]):
        assert words not in caplog.text
