"""Rollouts by vLLM (experimental): over the HTTP of a server, or started by this process.

What differs from our own engine: vLLM draws with its own random numbers, so the same seed gives other answers; and its
arithmetic is its own, so its log-probabilities differ from the trainer's by more than rounding. The trainer measures
that gap at every iteration and stops past its bound.

Weights go over a folder that both sides can read: after each update the policy is written there, and vLLM told to read
it again (`reload_weights`), the same way for both.
"""

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from preceptor.errors import UserError
from preceptor.rollout.draw import uniforms
from preceptor.types import Episode, FinishReason, Sampling

THREADS = 128  # requests that wait for a server at once
SECONDS = 600  # that one request may take
CACHE = 2**30  # bytes of keys and values that vLLM keeps on a processor; VLLM_CPU_KVCACHE_SPACE (GiB) sets another size
START = "vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm, with VLLM_SERVER_DEV_MODE=1"


class Engine(Protocol):
    """An engine beside our own, which is the function `engine.generate` on the very model that is trained.

    `load` gives it the policy's weights as they are now; `draw` is as `generate`.
    """

    def load(self, model: PreTrainedModel) -> None: ...

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop: frozenset[int],
        k: int = 1,
        first_number: int = 0,
    ) -> list[list[Episode]]: ...


class VllmServer:
    """A vLLM server. `exchange`: a folder that it can read under the same path."""

    def __init__(self, url: str, exchange: Path):
        self.url, self.exchange = url.rstrip("/"), exchange
        self.version = self._ask("/version")["version"]
        self.name = self._ask("/v1/models")["data"][0]["id"]
        self.loads = 0

    def load(self, model: PreTrainedModel) -> None:
        folder = write_weights(model, self.exchange, self.loads)
        self.loads += 1
        self._ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        self._ask("/reset_prefix_cache", {})

    def draw(self, prompts, sampling, *, stop, k=1, first_number=0):
        rows = [(prompt, first_number + place * k + i) for place, prompt in enumerate(prompts) for i in range(k)]
        with ThreadPoolExecutor(min(THREADS, max(1, len(rows)))) as pool:
            drawn = list(pool.map(lambda row: self._one(*row, sampling, stop), rows))
        return [drawn[place * k : (place + 1) * k] for place in range(len(prompts))]

    def _one(self, prompt: Sequence[int], number: int, sampling: Sampling, stop: frozenset[int]) -> Episode:
        answer = self._ask(
            "/v1/completions",
            {
                "model": self.name,
                "prompt": list(prompt),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": seed_of(sampling.seed, number),
                "stop_token_ids": sorted(stop),
                "ignore_eos": True,  # `stop` alone says what ends an answer
                "logprobs": 0,  # of the drawn token only
                "return_token_ids": True,
            },
        )
        choice = answer["choices"][0]
        return episode(prompt, choice["token_ids"], choice["logprobs"]["token_logprobs"], stop)

    def _ask(self, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=SECONDS) as reply:
                return json.loads(reply.read() or b"null")
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            raise UserError(f"vLLM at {self.url}{path}: status {error.code} {said}; start it as: {START}") from error
        except (URLError, OSError, ValueError) as error:
            raise UserError(f"vLLM at {self.url}{path}: {error}; start it as: {START}") from error


class VllmInside:
    """vLLM that this process starts, on the same accelerator; `share` of its memory is vLLM's.

    `tokens`: of the longest prompt with its answer. On a processor vLLM gets CACHE instead of a share, which it would
    fill with zeros first, and compiles nothing.
    """

    def __init__(self, source: Path, exchange: Path, tokens: int, share: float = 0.4):
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise UserError(f"vLLM is not installed ({error}): pip install 'preceptor[vllm]'") from error
        self.exchange, self.parameters, self.loads = exchange, SamplingParams, 0
        processor = not torch.cuda.is_available()
        if processor:
            # vLLM's own processes inherit it. `enforce_eager` is about the model: without this its sampler is compiled
            # all the same, by a C++ compiler, before the first answer.
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        self.llm = LLM(
            model=str(source),
            load_format="safetensors",
            trust_remote_code=False,
            dtype="float32",
            max_model_len=tokens,
            gpu_memory_utilization=share,
            kv_cache_memory_bytes=CACHE if processor else None,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            enforce_eager=processor,
        )

    def load(self, model: PreTrainedModel) -> None:
        folder = write_weights(model, self.exchange, self.loads)
        self.loads += 1
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()

    def draw(self, prompts, sampling, *, stop, k=1, first_number=0):
        rows = [(prompt, first_number + place * k + i) for place, prompt in enumerate(prompts) for i in range(k)]
        parameters = [
            self.parameters(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed_of(sampling.seed, number),
                stop_token_ids=sorted(stop),
                ignore_eos=True,
                logprobs=0,
            )
            for _, number in rows
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt, _ in rows]
        drawn = []
        for (prompt, _), found in zip(rows, self.llm.generate(asked, parameters, use_tqdm=False)):
            tokens = list(found.outputs[0].token_ids)
            logprobs = [each[token].logprob for token, each in zip(tokens, found.outputs[0].logprobs)]
            drawn.append(episode(prompt, tokens, logprobs, stop))
        return [drawn[place * k : (place + 1) * k] for place in range(len(prompts))]


def write_weights(model: PreTrainedModel, exchange: Path, number: int) -> Path:
    """The model in a folder of its own under `exchange`; the one before it is removed."""
    folder = exchange / f"weights-{number}"
    try:
        exchange.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the policy for vLLM to {folder}: {error}") from error
    for old in exchange.glob("weights-*"):
        if old != folder:
            shutil.rmtree(old)
    return folder


def seed_of(seed: int, number: int) -> int:
    """A seed for each answer of each call, below 2**53: JSON keeps it."""
    return int(uniforms(seed, number, 1)[0] * 2**53)


def episode(prompt: Sequence[int], tokens: list[int], logprobs: list[float], stop: frozenset[int]) -> Episode:
    reason: FinishReason = "stop" if tokens and tokens[-1] in stop else "length"
    assert len(tokens) == len(logprobs), f"{len(tokens)} tokens, {len(logprobs)} log-probabilities"
    return Episode(
        prompt_tokens=tuple(prompt), answer_tokens=tuple(tokens), logprobs=tuple(logprobs), finish_reason=reason
    )
