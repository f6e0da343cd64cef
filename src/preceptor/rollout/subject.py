"""A model folder as something that can be asked: raw text, conversations, likelihoods. What evaluations talk to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from preceptor.models.load import load_policy, load_tokenizer
from preceptor.models.logprobs import answer_logprobs, answer_mask
from preceptor.models.save import model_hash
from preceptor.rollout.engine import generate
from preceptor.text.batches import by_length, pad_right
from preceptor.text.chat import Chat
from preceptor.types import Episode, Message, Sampling


class LocalSubject:
    """A loaded model folder. `batch`: answers drawn at once, and rows per forward pass."""

    def __init__(self, folder: Path | str, *, name: str = "", batch: int = 256):
        self.name = name or Path(folder).name
        self.hash = model_hash(folder)
        self.chat = Chat(load_tokenizer(folder))
        self.model = load_policy(folder)
        self.batch = batch
        self._texts: list[str] = []  # of every token, decoded when a stop string is first asked for

    # -- what an evaluation asks ----------------------------------------------------------------------------

    def generate(
        self,
        prompts: list[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str]:
        """Raw continuations without chat template, each ending before the first of the `stop` strings."""
        rows = [self._text_ids(prompt) for prompt in prompts]
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [texts[0] for texts in self.continuations(rows, sampling, stop=stop)]

    def answer(
        self,
        conversations: list[list[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str]:
        """The assistant's next turn; a last assistant message is a prefilled answer and is continued."""
        rows = []
        for messages in conversations:
            if messages and messages[-1].role == "assistant":
                started = self.chat.answer(messages[-1].content)[:-1]
                rows.append(self.chat.prompt(messages[:-1]) + started)
            else:
                rows.append(self.chat.prompt(messages))
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [texts[0].strip() for texts in self.continuations(rows, sampling, stop=stop)]

    def loglikelihood(self, pairs: list[tuple[str, str]]) -> list[tuple[float, int]]:
        """Sum of log-probabilities (nats) and number of tokens of each continuation given its context."""
        contexts, continuations = [], []
        for context, continuation in pairs:
            start = self._text_ids(context) or [self.chat.eos]
            # Tokenised together, as a reader would meet them; the context's own tokens must stay what they were.
            whole = self._text_ids(context + continuation)
            if whole[: len(start)] != start or len(whole) == len(start):
                whole = start + self.chat.tokenizer(continuation, add_special_tokens=False)["input_ids"]
            contexts.append(start)
            continuations.append(whole[len(start) :])
        sums = self.token_logprobs(contexts, continuations)
        return [(sum(row), len(row)) for row in sums]

    # -- what the above is made of --------------------------------------------------------------------------

    def continuations(
        self,
        rows: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        k: int = 1,
        stop: tuple[str, ...] = (),
        progress: Callable[[int], None] | None = None,
    ) -> list[list[str]]:
        """K texts after each row of ids, cut before the first of the `stop` strings."""
        episodes = self.episodes(rows, sampling, k=k, stop=stop, progress=progress)
        return [[self._read(episode, stop) for episode in group] for group in episodes]

    def episodes(
        self,
        rows: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        k: int = 1,
        stop: tuple[str, ...] = (),
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Episode]]:
        """K answers to each row of ids, ending at end-of-text or at a token that contains one of the `stop` strings."""
        ends = frozenset([self.chat.eos, *self._tokens_with(stop)])
        return generate(
            self.model,
            rows,
            sampling,
            stop=ends,
            pad=self.chat.pad,
            k=k,
            batch=self.batch,
            progress=progress,
        )

    @torch.inference_mode()
    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probability (nats) of every token of each answer given its prompt."""
        result: list[list[float]] = [[] for _ in prompts]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers)]
        for places in by_length(lengths, max(1, self.batch // 4)):
            ids, total = pad_right([[*prompts[p], *answers[p]] for p in places], self.chat.pad)
            starts = torch.tensor([len(prompts[p]) for p in places])
            mask = answer_mask(starts, total)
            device = self.model.device
            logprobs = answer_logprobs(self.model, ids.to(device), starts.to(device), mask.to(device), temperature)
            for place, row in zip(places, logprobs.cpu().tolist()):
                result[place] = row[: len(answers[place])]
        return result

    def _text_ids(self, text: str) -> list[int]:
        return self.chat.tokenizer(text, add_special_tokens=True)["input_ids"] if text else []

    def _tokens_with(self, stop: tuple[str, ...]) -> list[int]:
        if not stop:
            return []
        if not self._texts:
            self._texts = self.chat.tokenizer.batch_decode([[token] for token in range(len(self.chat.tokenizer))])
        return [token for token, text in enumerate(self._texts) if any(end in text for end in stop)]

    def _read(self, episode: Episode, stop: tuple[str, ...]) -> str:
        text = self.chat.tokenizer.decode(
            episode.answer_tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text[: min((text.find(end) for end in stop if end in text), default=len(text))]
