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
ASK = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.0}
LONG = ASK | {"max_tokens": 1900}
ENDLESS = ASK | {"max_tokens": servers.ENDLESS - 1000}


def open_stream(server, body):
    """A connection with the answer's head and first chunk read."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname, place.port)
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}), headers)
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    return connection, response


def until(condition):
    """Wait for the condition; how long is the machine's affair, and the test's timeout ends a wait for nothing."""
    while not condition():
        time.sleep(0.01)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two rows, two places in the queue, and room for answers that hold them as long as a test wants."""
    root = tmp_path_factory.mktemp("small") / "workspace"
    workspace = servers.make_workspace(root, ("alpha",), context=servers.ENDLESS)
    running = servers.start(workspace, rows=2, queue=2)
    yield running
    running.stop()


@pytest.fixture
def streams(small):
    """Connections that are closed when the test ends, however it ends; then the server is idle again."""
    opened = []
    yield opened
    for connection in opened:
        connection.close()
    until(lambda: rows(small) == (0, 0))


def rows(server):
    """Answers that decode, answers that wait."""
    return server.metric("preceptor_rows_running"), server.metric("preceptor_rows_waiting")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_is_killed_frees_its_row(small, streams, stream):
    place = urlsplit(small.url)
    data = json.dumps(ENDLESS | {"stream": stream}).encode()
    client = socket.create_connection((place.hostname, place.port))
    streams.append(client)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {small.key}\r\n"
    before = small.metric("preceptor_tokens_drawn_total")
    client.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    until(lambda: rows(small) == (1, 0))
    # A killed process leaves a reset, not a polite end.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: rows(small) == (0, 0))
    # It was not the answer's end that freed the row.
    assert small.metric("preceptor_tokens_drawn_total") - before < ENDLESS["max_tokens"]


def test_a_full_queue_says_when_to_come_back(small, streams):
    for _ in range(4):
        streams.append(open_stream(small, ENDLESS)[0])
    until(lambda: rows(small) == (2, 2))
    status, headers, answer = small.call("/v1/chat/completions", ENDLESS)
    assert (status, answer["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(headers["retry-after"]) <= 60
    while streams:
        streams.pop().close()
    until(lambda: rows(small) == (0, 0))
    assert small.call("/v1/chat/completions", ASK | {"max_tokens": 2})[0] == 200


def test_a_key_over_its_limit_and_a_revoked_one(small):
    """One in a minute each: the second call comes sooner than that on any machine."""
    store = small.workspace.store
    _, slow = add_key(store, "slow", requests_per_minute=1)
    _, short = add_key(store, "short", tokens_per_minute=1)
    body = ASK | {"max_tokens": 4}
    assert [small.call("/v1/chat/completions", body, key=slow)[0] for _ in range(2)] == [200, 429]
    status, headers, answer = small.call("/v1/models", key=slow)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["retry-after"]) >= 1
    assert [small.call("/v1/chat/completions", body, key=short)[0] for _ in range(2)] == [200, 429]
    revoke_key(store, "short")
    assert small.call("/v1/models", key=short)[0] == 401


@pytest.mark.parametrize("program", [servers.PROGRAM, servers.WEB], ids=["serve", "web"])
def test_sigterm_finishes_the_answers_that_run_and_takes_no_more(tmp_path, program):
    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    server = servers.start(workspace, program=program)
    connection, response = open_stream(server, LONG)
    server.process.send_signal(signal.SIGTERM)
    rest = response.read().decode()
    connection.close()
    assert rest.rstrip().endswith("data: [DONE]")
    assert '"finish_reason":"length"' in rest
    assert server.process.wait() == 0
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
    try:
        for thread in threads:
            thread.start()
        until(lambda: len(seen) > 40 or not any(thread.is_alive() for thread in threads))
        (child,) = servers.children(server.process.pid)
    finally:
        server.stop(signal.SIGKILL)
        for thread in threads:
            thread.join()
    until(lambda: not servers.runs(child))  # the models' process ends with the server
    stored = {prompt.text for prompt in workspace.store.prompts()}
    assert len(seen) > 40
    assert set(seen) <= stored


def test_beside_the_pages_the_api_keeps_its_request_ids_and_shapes(tmp_path):
    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    server = servers.start(workspace, program=servers.WEB)
    status, headers, answer = server.call("/v1/chat/completions", ASK | {"max_tokens": 2})
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
