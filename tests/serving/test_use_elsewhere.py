"""What docs/use-elsewhere.md says of transformers: the folder alone gives the server's prompt and answer."""

import pytest
import server as servers
import torch
from architectures import KINDS, V
from transformers import AutoModelForCausalLM, AutoTokenizer

from preceptor.models.save import save_model
from preceptor.serving.words import Words
from preceptor.store import Workspace
from preceptor.text.tokenizer import train_tokenizer
from preceptor.types import ModelCard


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A server with one model of each architecture."""
    workspace = Workspace.create(tmp_path_factory.mktemp("four") / "workspace")
    tokenizer = train_tokenizer([servers.TEXT * 20], V)
    for name in ("llama", "gpt2", "neox", "qwen2"):
        torch.manual_seed(3)
        model = KINDS[name]()
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        save_model(workspace.model(name), model.eval(), tokenizer, ModelCard(name=name, stage="test"))
    running = servers.start(workspace)
    yield running
    running.stop()


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "qwen2"])
def test_greedy_answers_over_http_are_those_of_transformers_token_for_token(four, name):
    folder = four.workspace.model(name)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    words = Words(tokenizer)
    prompts = ["The quick brown", "A", "How to make tea for a user?", servers.TEXT]
    body = {"model": name, "prompt": prompts, "max_tokens": 60, "temperature": 0, "logprobs": 0}
    status, _, answer = four.call("/v1/completions", body)
    assert status == 200, answer
    for prompt, choice in zip(prompts, answer["choices"]):
        ids = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(**ids, max_new_tokens=60, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert choice["logprobs"]["tokens"] == [words.label(token) for token in expected.tolist()]
        assert choice["text"] == words.decode(expected)


def test_transformers_reads_the_folder_as_the_server_does(server):
    folder = server.workspace.model("alpha")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": servers.TEXT},
        {"role": "assistant", "content": "Boil water."},
        {"role": "user", "content": "And then?"},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    count = prompt["input_ids"].shape[1]
    expected = model.generate(**prompt, max_new_tokens=48, do_sample=False)[0, count:]
    body = {"model": "alpha", "messages": messages, "max_tokens": 48, "temperature": 0, "logprobs": True}
    status, _, answer = server.call("/v1/chat/completions", body)
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == count
    assert answer["choices"][0]["message"]["content"] == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert answer["usage"]["completion_tokens"] == len(expected)
