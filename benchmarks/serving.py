"""Streaming clients of the server: one, then many at once, in the same run.

    python benchmarks/serving.py WORKSPACE [--model NAME] [--seconds 20] [--clients 32] [--minutes M] [--output F]

Prints JSON, and writes it to F. The server and its models have a process each, all clients another. The ratios are the
result: both sides of each come from this run on this machine. Beside the one client stands `transformers.generate`, one
prompt at a time, greedy, with the same model and prompts: one client is not made slow to make many look fast.
`--minutes M` goes on with all clients for so long and samples the server's memory.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from machine import hardware, load_average

from preceptor.store import Workspace
from preceptor.store.keys import add_key, list_keys, revoke_key

NAME = "benchmark"
QUESTION = "Please explain point {} of the list in simple words."
SERVER = """
import sys
from preceptor.serving.serve import serve
from preceptor.config import ServeConfig
from preceptor.store import Workspace
serve(Workspace(sys.argv[1]), ServeConfig(port=0))
"""


@dataclass(slots=True)
class Client:
    """What one client saw."""

    tokens: int = 0
    answers: int = 0
    first: list[float] = field(default_factory=list)  # seconds to the first token of each answer


async def stream(host: str, port: int, key: str, model: str, max_tokens: int, seed: int, client: Client) -> None:
    """One streamed answer over a connection of its own; counts what the usage chunk says."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION.format(seed % 100)}],
        "max_tokens": max_tokens,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    started = time.perf_counter()
    writer.write(head.encode() + data)
    last, seen = b"", False
    async for line in reader:
        if line.startswith(b"data: {"):
            if not seen and b'"content":"' in line and b'"role"' not in line:
                client.first.append(time.perf_counter() - started)
                seen = True
            last = line
    writer.close()
    usage = json.loads(last[6:]).get("usage")
    if not usage:
        raise RuntimeError(f"the stream ended without usage: {last[:300]!r}")
    client.tokens += usage["completion_tokens"]
    client.answers += 1


async def crowd(url: str, key: str, model: str, clients: int, seconds: float, max_tokens: int) -> dict:
    """`clients` clients that ask one question after another until `seconds` have passed."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
    seen = [Client() for _ in range(clients)]
    started = time.perf_counter()

    async def one(number: int) -> float:
        turn = 0
        while time.perf_counter() - started < seconds:
            await stream(host, port, key, model, max_tokens, 1000 * number + turn, seen[number])
            turn += 1
        return time.perf_counter() - started

    ends = await asyncio.gather(*(one(number) for number in range(clients)))
    rates = sorted(client.tokens / end for client, end in zip(seen, ends))
    firsts = [seconds for client in seen for seconds in client.first]
    return {
        "clients": clients,
        "answers": sum(client.answers for client in seen),
        "tokens_per_second": sum(rates),
        "slowest_client_share_of_median": rates[0] / statistics.median(rates),
        "first_token_ms_median": 1000 * statistics.median(firsts),
        "first_token_ms_worst": 1000 * max(firsts),
    }


def resident_mib(pid: int) -> float:
    """Resident memory of a process and those that it started (Linux). What they share counts in each."""
    children = [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


ALONE = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
folder, seconds, most = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
tokens, number, started = 0, -1, 0.0
while number < 0 or time.perf_counter() - started < seconds:
    text = QUESTION.format(max(number, 0) % 100)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=most, do_sample=False)
    number += 1
    if number:
        tokens += answer.shape[1] - prompt["input_ids"].shape[1]
    else:
        started = time.perf_counter()  # the first one warmed up
print(tokens / (time.perf_counter() - started))
"""


def generate_alone(folder: Path, seconds: float, max_tokens: int) -> float:
    """Tokens per second of `transformers.generate`, greedy, one prompt after another, in a process of its own."""
    program = f"QUESTION = {QUESTION!r}\n{ALONE}"
    command = [sys.executable, "-c", program, str(folder), str(seconds), str(max_tokens)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])


async def watched(pid: int, load: Coroutine) -> tuple[list[float], dict]:
    """Resident MiB every ten seconds while `load` goes on, and what the clients saw."""
    work = asyncio.ensure_future(load)
    seen = []
    while not work.done():
        seen.append(round(resident_mib(pid), 1))
        await asyncio.wait({work}, timeout=10)
    return seen, await work


def measure(
    workspace: Workspace,
    model: str,
    *,
    seconds: float = 20.0,
    clients: int = 32,
    max_tokens: int = 128,
    minutes: float = 0.0,
) -> dict:
    """One client, then `clients`, on a fresh server; their ratio, the slowest client, and the server's memory."""
    if any(key.name == NAME for key in list_keys(workspace.store)):
        revoke_key(workspace.store, NAME)
    key = add_key(workspace.store, NAME)[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(workspace.root)], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().decode().split()[3]
        asyncio.run(crowd(url, key, model, 2, 1.0, max_tokens))  # loads the model
        one = asyncio.run(crowd(url, key, model, 1, seconds, max_tokens))
        before = resident_mib(server.pid)
        many = asyncio.run(crowd(url, key, model, clients, seconds / 2, max_tokens))
        middle = resident_mib(server.pid)
        more = asyncio.run(crowd(url, key, model, clients, seconds / 2, max_tokens))
        after = resident_mib(server.pid)
        long = {}
        if minutes:
            load = crowd(url, key, model, clients, 60 * minutes, max_tokens)
            samples, seen = asyncio.run(watched(server.pid, load))
            long = {"long": {"minutes": minutes, "resident_mib": samples, **seen}}
    finally:
        server.terminate()
        server.wait(60)
        revoke_key(workspace.store, NAME)
    alone = generate_alone(workspace.model(model), seconds / 2, max_tokens)
    return {
        "hardware": hardware(),
        "load_average": load_average(),
        "date": time.strftime("%Y-%m-%d"),
        "model": model,
        "one": one,
        "many": many,
        "ratio": many["tokens_per_second"] / one["tokens_per_second"],
        "generate_tokens_per_second": alone,
        "one_vs_generate": one["tokens_per_second"] / alone,
        "slowest_client_share_of_median": min(
            many["slowest_client_share_of_median"], more["slowest_client_share_of_median"]
        ),
        "resident_mib": {"one": before, "many": middle, "many_later": after},
        **long,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace")
    parser.add_argument("--model", help="a model of the workspace; its newest when absent")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--output", type=Path, help="file for the figures")
    options = parser.parse_args()
    place = Workspace(options.workspace)
    chosen = options.model or place.models()[-1]
    print(
        json.dumps(
            measure(place, chosen, seconds=options.seconds, clients=options.clients, minutes=options.minutes), indent=2
        )
    )
