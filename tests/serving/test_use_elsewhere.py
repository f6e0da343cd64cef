"""What docs/use-elsewhere.md says of transformers: the folder alone gives the server's prompt and answer."""

import server as servers
from transformers import AutoModelForCausalLM, AutoTokenizer


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
