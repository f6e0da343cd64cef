"""Keys are shown once and stored hashed; buckets by hand."""

import html
import re
import sqlite3

import pytest
from fastapi.testclient import TestClient

from preceptor.config import ServeConfig
from preceptor.errors import UserError
from preceptor.labelling.app import create_app
from preceptor.serving.errors import ApiError
from preceptor.serving.limits import Bucket, Limits
from preceptor.store import Workspace
from preceptor.store.accounts import Accounts
from preceptor.store.keys import add_key, find_key, list_keys, revoke_key


@pytest.fixture
def workspace(tmp_path):
    return Workspace.create(tmp_path / "w")


def test_a_key_is_found_until_it_is_revoked_and_never_stored(workspace):
    store = workspace.store
    key, secret = add_key(store, "ana", tokens_per_minute=100)
    assert find_key(store, secret) == key
    assert find_key(store, secret[:-1]) is None
    rows = sqlite3.connect(workspace.root / "preceptor.db").execute("select * from api_keys").fetchall()
    assert secret[len("sk-preceptor-") + 4 :] not in str(rows)
    assert revoke_key(store, "ana").revoked_at is not None
    assert find_key(store, secret) is None
    assert list_keys(store) == []
    assert [one.id for one in list_keys(store, revoked=True)] == [key.id]
    assert add_key(store, "ana")[0].id != key.id


def test_mistakes_with_keys_are_told(workspace):
    add_key(workspace.store, "ana")
    for call, words in [
        (lambda: add_key(workspace.store, "ana"), "has a key already"),
        (lambda: add_key(workspace.store, "  "), "1 to 100"),
        (lambda: add_key(workspace.store, "b", requests_per_minute=0), "1 or more"),
        (lambda: revoke_key(workspace.store, "bob"), "no key 'bob'"),
    ]:
        with pytest.raises(UserError, match=words):
            call()


def test_a_bucket_by_hand():
    bucket = Bucket(rate=60, level=60, at=0.0)  # one a second
    assert bucket.take(50, 0.0) == 0
    assert bucket.take(15, 0.0) == 5.0  # 10 are left, 5 more take 5 s
    assert bucket.take(15, 5.0) == 0
    assert bucket.level == 0
    assert bucket.take(1000, 30.0) == 35.0  # more than it holds: a full one will do
    assert bucket.take(1000, 65.0) == 0
    bucket.give_back(100)
    assert bucket.level == 60


def test_a_keys_own_limit_comes_before_the_servers(workspace):
    clock = [0.0]
    limits = Limits(ServeConfig(requests_per_minute=2), lambda: clock[0])
    plain, wide = add_key(workspace.store, "a")[0], add_key(workspace.store, "b", requests_per_minute=4)[0]
    for key, count in ((plain, 2), (wide, 4)):
        for _ in range(count):
            limits.take_request(key)
        with pytest.raises(ApiError) as refused:
            limits.take_request(key)
        assert refused.value.status == 429
        assert int(refused.value.response().headers["retry-after"]) == 60 // count
    clock[0] = 29.7
    with pytest.raises(ApiError, match="try again in 1 s"):  # 0.3 s, which is not "0 s"
        limits.take_request(plain)
    clock[0] = 30.0
    limits.take_request(plain)


def test_tokens_that_were_not_used_come_back(workspace):
    limits = Limits(ServeConfig(), lambda: 0.0)
    key = add_key(workspace.store, "a", tokens_per_minute=100)[0]
    limits.take_tokens(key, 90)
    with pytest.raises(ApiError, match="100 tokens per minute"):
        limits.take_tokens(key, 20)
    limits.give_back_tokens(key, 80)
    limits.take_tokens(key, 90)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"rows": 0}, {"port": 70000}, {"context": 0}, {"queue": 0}):
        with pytest.raises(UserError, match="serve: "):
            ServeConfig(**wrong)


def signed_in(workspace, role):
    """A browser with a session of somebody in this role."""
    accounts = Accounts(workspace.store)
    token = accounts.invite("test", role=role)
    user = accounts.accept(token, name=role, email=f"{role}@example.org", password_hash="x", settings={})
    return TestClient(create_app(workspace), cookies={"session": accounts.open_session(user.id, "test")})


def test_a_researcher_makes_a_key_sees_it_once_and_revokes_it(workspace):
    browser = signed_in(workspace, "researcher")

    def send(path, **fields):
        token = re.search(r'name="token" value="([^"]+)"', browser.get("/keys").text)[1]
        return browser.post(path, data={"token": token} | fields)

    page = html.unescape(send("/keys", name="the shop", requests_per_minute="60", tokens_per_minute="").text)
    secret = re.search(r'value="(sk-preceptor-[^"]+)"', page)[1]
    key = find_key(workspace.store, secret)
    assert (key.name, key.requests_per_minute, key.tokens_per_minute) == ("the shop", 60, None)
    assert secret not in browser.get("/keys").text
    for wrong, words in (("-1", "whole number"), ("many", "whole number"), ("0", "1 or more")):
        assert words in send("/keys", name="b", requests_per_minute=wrong).text
    assert "has a key already" in html.unescape(send("/keys", name="the shop").text)
    assert send(f"/keys/{key.id}/revoke").status_code == 200
    assert find_key(workspace.store, secret) is None
    assert "revoked" in browser.get("/keys").text
    assert send(f"/keys/{key.id}/revoke").status_code == 404
    actions = [line["action"] for line in Accounts(workspace.store).trail()]
    assert {"API key made", "API key revoked"} <= set(actions)
    assert secret not in str(Accounts(workspace.store).trail())


def test_a_labeler_reaches_no_page_of_keys(workspace):
    browser = signed_in(workspace, "labeler")
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/settings").text)[1]
    assert browser.get("/keys").status_code == 403
    assert browser.post("/keys", data={"token": token, "name": "mine"}).status_code == 403
    assert list_keys(workspace.store) == []
