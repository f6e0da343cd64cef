"""The contract, as the official client sees it, and as curl does."""

import json
import re
import shutil
import subprocess

import openai
import pytest

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I make tea?"}]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["alpha", "beta"]
    assert client.models.retrieve("beta").owned_by == "preceptor"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gamma")
    assert refused.value.code == "model_not_found"


def test_a_chat_answer_has_every_field_and_repeats_with_its_seed(client):
    def ask(seed):
        return client.chat.completions.create(
            model="alpha", messages=ASK, max_completion_tokens=20, temperature=0.8, top_p=0.9, seed=seed
        )

    first, again, other = ask(7), ask(7), ask(8)
    assert first.choices[0].message.role == "assistant"
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 20
    assert first.usage.total_tokens == first.usage.prompt_tokens + 20
    assert first.object == "chat.completion"
    assert first._request_id.startswith("req_")


def test_both_spellings_of_the_token_limit(client):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="alpha", messages=ASK, **{name: 3})
        assert answer.usage.completion_tokens == 3
    with pytest.raises(openai.BadRequestError, match="differ"):
        client.chat.completions.create(model="alpha", messages=ASK, max_tokens=3, max_completion_tokens=4)


def test_a_stream_says_the_role_first_the_reason_last_and_the_same_words(client):
    settings = {"model": "alpha", "messages": ASK, "max_tokens": 24, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True))
    for index in (0, 1):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert [one.finish_reason for one in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == "length"
        assert "".join(one.delta.content or "" for one in own) == whole.choices[index].message.content
    assert whole.choices[0].message.content != whole.choices[1].message.content
    assert all(chunk.usage is None and chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_in_the_stream_only_when_asked(client):
    settings = {"model": "alpha", "messages": ASK, "max_tokens": 5, "stream": True}
    chunks = list(client.chat.completions.create(**settings, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])


def test_raw_stream_ends_with_done(server):
    body = {"model": "alpha", "messages": ASK, "max_tokens": 3, "stream": True}
    status, headers, text = server.call("/v1/chat/completions", body)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":null' in events[0]
    assert all("usage" not in json.loads(event[6:]) for event in events[:-1])


def test_a_stop_text_ends_the_answer_before_it(client):
    settings = {"model": "alpha", "messages": ASK, "max_tokens": 40, "seed": 5, "temperature": 1.0}
    text = client.chat.completions.create(**settings).choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    expected = text[: text.index(stop)].rstrip()
    for stream in (False, True):
        answer = client.chat.completions.create(**settings, stop=["never in there", stop], stream=stream)
        if stream:
            chunks = list(answer)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert answer.choices[0].message.content == expected
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage.completion_tokens < 40


def test_chat_logprobs_are_of_the_tokens_of_the_answer(client):
    settings = {"model": "alpha", "messages": ASK, "max_tokens": 12, "seed": 2, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**settings).choices[0]
    content = choice.logprobs.content
    assert len(content) == 12
    assert b"".join(bytes(one.bytes) for one in content).decode("utf-8", "replace").strip() == choice.message.content
    for one in content:
        values = [top.logprob for top in one.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert one.logprob <= values[0] <= 0
    chunks = list(client.chat.completions.create(**settings, stream=True))
    streamed = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in content]


def test_completions_go_on_where_the_text_ends(client):
    answer = client.completions.create(model="alpha", prompt=["The quick", "How to"], max_tokens=6, n=2, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens == 24
    chunks = list(client.completions.create(model="alpha", prompt=["The quick"], max_tokens=6, seed=1, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_echo_with_logprobs_gives_the_prompts_own(client):
    prompt = "The quick brown fox"
    one = client.completions.create(model="alpha", prompt=prompt, max_tokens=1, echo=True, logprobs=1, temperature=0)
    choice, logprobs = one.choices[0], one.choices[0].logprobs
    assert choice.text.startswith(prompt)
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[:3] == [0, 3, 9]
    assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values())  # greedy: the likeliest token
    none = client.completions.create(model="alpha", prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    assert none.choices[0].text == prompt
    assert none.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:-1]


def test_tokens_as_prompt_are_the_same_as_their_text(client, server):
    from preceptor.models.load import load_tokenizer

    ids = load_tokenizer(server.workspace.model("alpha"))("The quick brown")["input_ids"]
    settings = {"model": "alpha", "max_tokens": 4, "temperature": 0, "echo": True}
    texts = [
        client.completions.create(prompt=prompt, **settings).choices[0].text for prompt in ("The quick brown", ids)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"n": 0}, "n", "greater than 0"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"top_logprobs": 2}, "top_logprobs", "only with logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only with stream"),
        ({"max_tokens": 100000}, "messages", "context of alpha"),
        ({"tools": [{"type": "function"}]}, "tools", "not offered"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not offered"),
        ({"max_token": 5}, "max_token", "did you mean 'max_tokens'"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", ""),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "surrogate"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server, more, param, words):
    body = {"model": "alpha", "messages": ASK} | more
    status, headers, answer = server.call("/v1/chat/completions", body)
    error = answer["error"]
    assert status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert (error["param"] or "").startswith(param or "")
    assert re.fullmatch(r"req_[0-9a-f]{24}", headers["x-request-id"])


def test_parameters_that_ask_for_nothing_are_taken(client):
    nothing = {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tool_choice": "none"}
    answer = client.chat.completions.create(
        model="alpha", messages=ASK, max_tokens=2, response_format={"type": "text"}, user="ana", **nothing
    )
    assert answer.usage.completion_tokens == 2


def test_error_classes_of_the_client(client, server):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="../alpha", messages=ASK)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="alpha", messages=ASK, temperature=9)
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-preceptor-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_without_a_key_only_health_answers(server):
    assert server.call("/health", key=None)[::2] == (200, {"status": "ok"})
    for path in ("/", "/v1/models", "/v1/models/alpha", "/metrics", "/openapi.json", "/docs", "/v1/nothing", "/admin"):
        for key in (None, "", "sk-preceptor-wrong"):
            assert server.call(path, key=key)[0] == 401, path
    for path in ("/v1/chat/completions", "/v1/completions"):
        for body in (b"{", b"{}", b"\xff" * 10):
            assert server.call(path, raw=body, key=None)[0] == 401


def test_with_a_key_unknown_addresses_are_told_apart(server):
    assert server.call("/v1/nothing")[0] == 404
    status, _, answer = server.call("/v1/chat/completions")
    assert status == 405
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_plain_curl(server):
    def curl(*more):
        command = ["curl", "-sS", "-N", "-H", f"Authorization: Bearer {server.key}", *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    body = json.dumps({"model": "alpha", "messages": ASK, "max_tokens": 4, "stream": True})
    text = curl(f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body)
    assert text.rstrip().endswith("data: [DONE]")
    assert json.loads(curl(f"{server.url}/v1/models"))["object"] == "list"
    assert "preceptor_requests_total" in curl(f"{server.url}/metrics")
    headers = curl("-o", "/dev/null", "-D", "-", f"{server.url}/v1/models/none")
    assert headers.startswith("HTTP/1.1 404")
    assert "x-request-id: req_" in headers
