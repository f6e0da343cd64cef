"""Keys are shown once and stored hashed; buckets by hand."""

import sqlite3

import pytest

from preceptor.config import ServeConfig
from preceptor.errors import UserError
from preceptor.serving.errors import ApiError
from preceptor.serving.limits import Bucket, Limits
from preceptor.store import Workspace
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
