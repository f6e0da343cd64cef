"""Clients that leave, servers that stop, queues that fill: against real processes."""

import http.client
import json
import random
import re
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import server as servers

from preceptor.store.keys import add_key, revoke_key

WORDS = [first + second for first in "bcdfghklmnprst" for second in ("arn", "elt", "ost", "und", "ick", "amble")]
LONG = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1900, "temperature": 0.0}


def open_stream(server, body):
    """A connection with the answer's head and first chunk read."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}), headers)
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    return connection, response


def until(condition, seconds):
    """Seconds until the condition holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two rows, two places in the queue."""
    workspace = servers.make_workspace(tmp_path_factory.mktemp("small") / "workspace", ("alpha",))
    running = servers.start(workspace, rows=2, queue=2)
    yield running
    running.stop()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_is_killed_frees_its_row_within_a_second(small, stream):
    """One of a few: on a busy machine one may have to wait for its turn."""
    assert any(seconds_until_free(small, stream) < 1.0 for _ in range(10))


def seconds_until_free(small, stream):
    place = urlsplit(small.url)
    data = json.dumps(LONG | {"stream": stream}).encode()
    client = socket.create_connection((place.hostname, place.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {small.key}\r\n"
    client.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    until(lambda: small.metric("preceptor_rows_running") == 1, 30)
    # A killed process leaves a reset, not a polite end.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    return until(lambda: small.metric("preceptor_rows_running") == 0, 30)


def test_a_full_queue_says_when_to_come_back(small):
    streams = [open_stream(small, LONG) for _ in range(4)]
    assert small.metric("preceptor_rows_running") == 2
    assert small.metric("preceptor_rows_waiting") == 2
    status, headers, answer = small.call("/v1/chat/completions", LONG)
    assert (status, answer["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(headers["retry-after"]) <= 60
    for connection, _ in streams:
        connection.close()
    until(lambda: small.metric("preceptor_rows_running") + small.metric("preceptor_rows_waiting") == 0, 30)
    assert small.call("/v1/chat/completions", LONG | {"max_tokens": 2})[0] == 200


def test_a_key_over_its_limit_and_a_revoked_one(small):
    store = small.workspace.store
    _, slow = add_key(store, "slow", requests_per_minute=2)
    _, short = add_key(store, "short", tokens_per_minute=60)
    body = LONG | {"max_tokens": 4}
    assert [small.call("/v1/chat/completions", body, key=slow)[0] for _ in range(3)] == [200, 200, 429]
    status, headers, answer = small.call("/v1/models", key=slow)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["retry-after"]) >= 1
    used = small.call("/v1/chat/completions", body, key=short)[2]["usage"]["total_tokens"]
    more = [small.call("/v1/chat/completions", body, key=short)[0] for _ in range(60 // used + 1)]
    assert 429 in more
    revoke_key(store, "short")
    assert small.call("/v1/models", key=short)[0] == 401


@pytest.mark.parametrize("program", [servers.PROGRAM, servers.WEB], ids=["serve", "web"])
def test_sigterm_finishes_the_answers_that_run_and_takes_no_more(tmp_path, program):
    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    server = servers.start(workspace, program=program)
    connection, response = open_stream(server, LONG | {"max_tokens": 120})
    server.process.send_signal(signal.SIGTERM)
    rest = response.read().decode()
    connection.close()
    assert rest.rstrip().endswith("data: [DONE]")
    assert re.search(r'"finish_reason":"(length|stop)"', rest)  # its own end, whichever came first
    assert server.process.wait(120) == 0
    with pytest.raises(OSError):
        server.call("/health", key=None)


@pytest.mark.parametrize("program", [servers.PROGRAM, servers.WEB], ids=["serve", "web"])
def test_sigkill_loses_no_prompt_that_was_acknowledged(tmp_path, program):
    """Clients send consented prompts as fast as they can; what they saw the first byte of must be there after -9."""
    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    server = servers.start(workspace, program=program)
    seen: list[str] = []

    def client(number):
        for turn in range(1000):
            words = random.Random(f"{number} {turn}").choices(WORDS, k=40)
            text = " ".join(words)
            user = f"user {number} {turn // 100}"
            body = {
                "model": "alpha",
                "messages": [{"role": "user", "content": text}],
                "store": True,
                "safety_identifier": user,
                "max_tokens": 20,
            }
            try:
                connection, response = open_stream(server, body)
                if response.headers["x-preceptor-store"] == "kept":
                    seen.append(text)
                connection.close()
            except (OSError, http.client.HTTPException, AssertionError):
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(seen) > 40, 60)
    (child,) = servers.children(server.process.pid)
    server.process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()
    server.process.wait()
    until(lambda: not servers.runs(child), 5)  # the models' process ends with the server
    stored = {prompt.text for prompt in workspace.store.prompts()}
    assert len(seen) > 40
    assert set(seen) <= stored


def test_beside_the_pages_the_api_keeps_its_request_ids_and_shapes(tmp_path):
    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    server = servers.start(workspace, program=servers.WEB)
    status, headers, answer = server.call("/v1/chat/completions", LONG | {"max_tokens": 2})
    assert (status, answer["object"]) == (200, "chat.completion")
    number = headers["x-request-id"]
    assert re.fullmatch("req_[0-9a-f]{24}", number)
    status, headers, answer = server.call("/v1/models/none")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    status, headers, answer = server.call("/v1/nothing")
    assert (status, set(answer["error"])) == (404, {"message", "type", "param", "code"})
    assert server.call("/v1/models", key=None)[0] == 401
    assert server.stop() == 0
    lines = [line for line in (workspace.root / "server.log").read_text().splitlines() if line.startswith("{")]
    assert number in {json.loads(line)["id"] for line in lines}
