"""A model folder as something that can be asked: raw text, conversations, likelihoods. What evaluations talk to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from preceptor.models.load import load_policy, load_tokenizer
from preceptor.models.logprobs import answer_logprobs, answer_mask
from preceptor.models.save import model_hash
from preceptor.rollout.engine import generate
from preceptor.rollout.shared import WORTH, common_start, shared_logprobs
from preceptor.text.batches import by_length, pad_right
from preceptor.text.chat import Chat
from preceptor.types import Episode, Message, Sampling

CACHE = 2**30  # bytes of keys and values that one call may hold


class LocalSubject:
    """A loaded model folder. `batch`: answers drawn at once, at most; fewer where their cache would pass `CACHE`."""

    def __init__(self, folder: Path | str, *, name: str = "", batch: int = 256):
        self.name = name or Path(folder).name
        self.hash = model_hash(folder)
        self.chat = Chat(load_tokenizer(folder))
        self.model = load_policy(folder)
        self.batch = batch
        config = self.model.config.get_text_config()
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        kinds = getattr(config, "layer_types", None) or []
        self._sliding = any("sliding" in kind for kind in kinds)
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
    ) -> list[str | None]:
        """Raw continuations without chat template, each ending before the first of the `stop` strings; None where
        prompt and answer may pass the model's context."""
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return self._where_it_fits(self._texts_ids(prompts), sampling, stop)

    def answer(
        self,
        conversations: list[list[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        """The assistant's next turn; a last assistant message is a prefilled answer and is continued. None as above."""
        rows = []
        for messages in conversations:
            if messages and messages[-1].role == "assistant":
                started = self.chat.answer(messages[-1].content)[:-1]
                rows.append(self.chat.prompt(messages[:-1]) + started)
            else:
                rows.append(self.chat.prompt(messages))
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [None if text is None else text.strip() for text in self._where_it_fits(rows, sampling, stop)]

    def loglikelihood(self, pairs: list[tuple[str, str]]) -> list[tuple[float, int] | None]:
        """Sum of log-probabilities (nats) and number of tokens of each continuation given its context.

        None where both together pass the model's context. Contexts that come several times are computed once.
        """
        contexts, continuations = [], []
        starts = dict(zip(distinct := list({context for context, _ in pairs}), self._texts_ids(distinct)))
        wholes = self._texts_ids([context + continuation for context, continuation in pairs])
        for (context, continuation), whole in zip(pairs, wholes):
            start = starts[context] or [self.chat.eos]
            # Tokenised together, as a reader would meet them; the context's own tokens must stay what they were.
            if whole[: len(start)] != start or len(whole) == len(start):
                whole = start + self.chat.tokenizer(continuation, add_special_tokens=False)["input_ids"]
            contexts.append(start)
            continuations.append(whole[len(start) :])
        fit = [place for place in range(len(pairs)) if self._fits(len(contexts[place]) + len(continuations[place]))]
        found: list[tuple[float, int] | None] = [None] * len(pairs)
        sums = self._shared_logprobs([contexts[place] for place in fit], [continuations[place] for place in fit])
        for place, row in zip(fit, sums):
            found[place] = (sum(row), len(row))
        return found

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
        longest = max((len(row) for row in rows), default=0) + sampling.max_new_tokens
        return generate(
            self.model,
            rows,
            sampling,
            stop=ends,
            pad=self.chat.pad,
            k=k,
            batch=self._rows(longest),
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

    def _shared_logprobs(self, contexts: list[list[int]], answers: list[list[int]]) -> list[list[float]]:
        repeated = len({tuple(context) for context in contexts}) < len(contexts)
        if self._sliding or not (repeated or common_start(contexts) >= WORTH):
            return self.token_logprobs(contexts, answers)
        return shared_logprobs(self.model, contexts, answers, self.chat.pad)

    def _where_it_fits(self, rows: list[list[int]], sampling: Sampling, stop: tuple[str, ...]) -> list[str | None]:
        """One text after each row, None where row and answer may pass the context."""
        fit = [place for place, row in enumerate(rows) if self._fits(len(row) + sampling.max_new_tokens)]
        found: list[str | None] = [None] * len(rows)
        for place, texts in zip(fit, self.continuations([rows[place] for place in fit], sampling, stop=stop)):
            found[place] = texts[0]
        return found

    def _fits(self, tokens: int) -> bool:
        return self.context is None or tokens <= self.context

    def _rows(self, tokens: int) -> int:
        """How many rows of so many tokens the engine may hold at once."""
        config = self.model.config.get_text_config()
        share = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = config.hidden_size * share // config.num_attention_heads
        one = 2 * config.num_hidden_layers * width * self.model.dtype.itemsize * tokens
        return max(8, min(self.batch, CACHE // one))

    def _texts_ids(self, texts: list[str]) -> list[list[int]]:
        """No text has no tokens, not even those that a tokenizer puts before every text."""
        rows = self.chat.tokenizer(texts, add_special_tokens=True)["input_ids"] if texts else []
        return [row if text else [] for row, text in zip(rows, texts)]

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
