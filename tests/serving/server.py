"""A workspace with tiny models, and a real server over it in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch

from preceptor.models.presets import new_model
from preceptor.models.save import save_model
from preceptor.store import Workspace
from preceptor.store.keys import add_key
from preceptor.text.tokenizer import train_tokenizer
from preceptor.types import ModelCard

TEXT = (
    "The quick brown fox jumps over the lazy dog. A user asks how to make tea; the answer is to boil water first. "
    "Größe, naïve café, 東京, emoji 🙂 and code: for (i = 0; i < n; i++) { sum += i; } "
)

PROGRAM = """
import json, sys
from preceptor.serving.serve import serve
from preceptor.config import ServeConfig
from preceptor.store import Workspace
serve(Workspace(sys.argv[1]), ServeConfig(port=0, **json.loads(sys.argv[2])))
"""

WEB = """
import json, sys
from preceptor.config import WebConfig
from preceptor.pipeline.web import serve_web
from preceptor.store import Workspace
serve_web(Workspace(sys.argv[1]), WebConfig(port=0, **json.loads(sys.argv[2])))
"""


ENDLESS = 100_000  # tokens: minutes of drawing at the least, whatever the machine


def make_workspace(
    root: Path, names: tuple[str, ...] = ("alpha", "beta"), size: str = "tiny", context: int = 512
) -> Workspace:
    """A workspace with one untrained, endless model per name. Their tokenizer has whole words and single bytes."""
    workspace = Workspace.create(root)
    for number, name in enumerate(names):
        tokenizer = train_tokenizer([TEXT * 20], 420)
        torch.manual_seed(number)
        model = new_model(size, tokenizer, context)
        endless(model, tokenizer)
        save_model(workspace.model(name), model, tokenizer, ModelCard(name=name, stage="test"))
    return workspace


def endless(model, tokenizer) -> None:
    """Make greedy answers never end by themselves: end of text has a logit of 0, and some other token a higher one."""
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.eos_token_id] = 0.0


@dataclass
class Server:
    """A running server: its address, its process, and a key that works."""

    url: str
    process: subprocess.Popen
    key: str
    workspace: Workspace

    def call(self, path: str, body: object = None, key: str | None = "own", raw: bytes | None = None):
        """Status, headers and parsed body of one request."""
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {self.key if key == 'own' else key}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                status, out, text = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            status, out, text = error.code, error.headers, error.read()
        try:
            return status, out, json.loads(text)
        except ValueError:
            return status, out, text.decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.call("/metrics")[2]
        lines = [line for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait()


def start(workspace: Workspace, key: str = "", program: str = PROGRAM, **config) -> Server:
    """A server on a free port; ready when this returns. `program`: PROGRAM for the API alone, WEB with the pages."""
    key = key or add_key(workspace.store, f"owner-{time.monotonic_ns()}")[1]
    log = open(workspace.root / "server.log", "ab")  # noqa: SIM115 - the process keeps it
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(workspace.root), json.dumps(config)],
        stdout=subprocess.PIPE,
        stderr=log,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    log.close()
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert "http://" in line, (workspace.root / "server.log").read_text()[-3000:]
    address = next(word for word in line.split() if word.startswith("http://"))
    server = Server(address, process, key, workspace)
    while True:
        with contextlib.suppress(OSError):
            if server.call("/health", key=None)[0] == 200:
                return server
        assert process.poll() is None, (workspace.root / "server.log").read_text()[-3000:]
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Processes that a process started (Linux)."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def runs(pid: int) -> bool:
    """Whether a process does anything still; one that is dead but not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
