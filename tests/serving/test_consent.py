"""With consent a prompt reaches the pool as intake would have it; without, it is nowhere."""

import subprocess

import pytest

from preceptor.intake.splits import split_of

SETTINGS = {"model": "alpha", "max_tokens": 6}


def ask(server, text, **more):
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    status, headers, answer = server.call("/v1/chat/completions", SETTINGS | {"messages": messages} | more)
    assert status == 200, answer
    return headers["x-preceptor-store"], answer


def stored(server, text):
    return [prompt for prompt in server.workspace.store.prompts() if text in prompt.text]


@pytest.mark.parametrize("stream", [False, True])
def test_store_true_keeps_the_prompt_and_who_answered_it(server, stream):
    text = f"Tell me about marmots and their whistles, {'streamed' if stream else 'whole'}"
    outcome, answer = ask(
        server, text, store=True, safety_identifier="ana", stream=stream, metadata={"app": "a@example.org"}
    )
    assert outcome == "kept"
    (prompt,) = stored(server, text)
    assert (prompt.user_id, prompt.consent, prompt.source) == ("ana", True, "customer")
    assert prompt.split == split_of("ana")
    assert prompt.meta["metadata"] == {"app": "[email]"}
    (completion,) = server.workspace.store.completions(prompt_id=prompt.id)
    assert completion.model_id.startswith("alpha@")
    if not stream:
        assert completion.text == answer["choices"][0]["message"]["content"].replace("\0", "\ufffd")


def test_the_owner_of_the_key_is_the_user_of_a_prompt_without_one(server):
    from preceptor.store.keys import find_key

    ask(server, "Which fish live in the deep lake of Thun?", store=True)
    (prompt,) = stored(server, "lake of Thun")
    assert prompt.user_id == find_key(server.workspace.store, server.key).name


def test_intake_rules_hold(server):
    text = "Please write an honest letter to my landlord about the broken heater in the second bedroom upstairs"
    assert ask(server, text, store=True)[0] == "kept"
    assert ask(server, text, store=True)[0] == "known"
    assert ask(server, text.upper(), store=True, safety_identifier="someone")[0] == "duplicate"
    assert ask(server, "Call me at +44 20 7946 0958 or a@example.org about zebras", store=True)[0] == "kept"
    (masked,) = stored(server, "about zebras")
    assert masked.text == "Call me at [phone] or [email] about zebras"
    assert ask(server, [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], store=True)[0] == (
        "no-instruction"
    )
    assert ask(server, "The quick brown fox jumps over the lazy dog. " * 90, store=True, max_tokens=1)[0] == "too-long"
    assert ask(server, "a nul \0 character", store=True)[0] == "bad-text"


def test_a_user_has_at_most_200_prompts(server):
    from preceptor.types import Prompt

    store = server.workspace.store
    store.add_prompts(Prompt.of(f"old prompt number {number}", user_id="busy") for number in range(200))
    assert (
        ask(server, "A question that nobody asked before: why?", store=True, safety_identifier="busy")[0] == "over-cap"
    )


def test_a_prompt_without_consent_is_nowhere(server):
    """Not in the database, its journal, the log, the metrics, nor anything else in the workspace."""
    secret = "XYLOPHONEQUASAR"
    messages = [{"role": "system", "content": f"{secret}-system"}, {"role": "user", "content": f"{secret}-user"}]
    ask(server, messages)
    ask(server, messages, store=False)
    ask(server, messages, stream=True, metadata={secret: secret}, user=secret)
    server.call("/v1/completions", {"model": "alpha", "prompt": secret, "max_tokens": 2})
    for body in ({"model": secret}, {"model": "alpha", "messages": secret}, {"model": "alpha", secret: 1}):
        assert server.call("/v1/chat/completions", SETTINGS | {"messages": messages} | body)[0] in (400, 404)
    server.call("/v1/completions", {"model": "alpha", "prompt": secret * 300, "max_tokens": 2000})
    assert secret not in server.call("/metrics")[2]
    found = subprocess.run(["grep", "-rla", secret, str(server.workspace.root)], capture_output=True, text=True)
    assert found.stdout == ""
    # The same grep finds what was kept, so it can fail.
    ask(server, "Consented: PANGOLINNEBULA, what does it eat in winter?", store=True)
    found = subprocess.run(
        ["grep", "-rla", "PANGOLINNEBULA", str(server.workspace.root)], capture_output=True, text=True
    )
    assert "preceptor.db" in found.stdout
