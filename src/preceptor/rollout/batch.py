"""A running batch: rows join after one prefill, decode together a token at a time, and leave when they are done."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from preceptor.errors import UserError
from preceptor.models.attention import NAME, packed_states, packs, row_layout
from preceptor.models.logprobs import project
from preceptor.rollout.cache import SlotCache, column_mask, states_of
from preceptor.rollout.draw import draw, uniforms
from preceptor.rollout.shared import WORTH, common_start, prefilled
from preceptor.text.batches import pad_right
from preceptor.types import FinishReason, Sampling

PREFILL = 1024  # tokens of prompts in one pass: it keeps all of its activations at once
KEEP = 0.8  # finished rows are moved out when fewer than this share of the rows still decode


@dataclass(slots=True)
class Row:
    """One answer in the making. `number` and the sampling's seed fix its draws."""

    prompt: Sequence[int]
    sampling: Sampling
    number: int
    stop: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class RunningBatch:
    """Rows that decode together. Results do not depend on who shares the batch, up to rounding of the arithmetic."""

    def __init__(self, model: PreTrainedModel, pad: int, rows: int, columns: int):
        config = model.config.get_text_config()
        self.model, self.pad = model, pad
        self.context = getattr(config, "max_position_embeddings", None)
        self.capacity = rows
        turned = model.device.type == "cpu" and config._attn_implementation == NAME
        self.cache = SlotCache(config.num_hidden_layers, rows, columns, turned)
        # The mask below lets a token see all that came before it. A window that is wider than any row changes nothing;
        # a narrower one would.
        sliding = any("sliding" in kind for kind in getattr(config, "layer_types", None) or [])
        self.window = config.sliding_window if sliding else None
        self.rows: list[Row] = []
        self.alive = 0  # rows that are not finished
        device = model.device
        self.seen = torch.zeros(0, columns, dtype=torch.bool, device=device)  # [R, columns] a row's own columns
        self.position = torch.zeros(0, dtype=torch.long, device=device)  # [R] position of the next token
        self.logits = torch.zeros(0, config.vocab_size, device=device)
        self.temperature = torch.zeros(0, device=device)
        self.top_p = torch.zeros(0, device=device)
        self.u = np.zeros((0, 0))

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Prefill the rows' prompts, each distinct one and a long start that they share once, and add the rows."""
        longest = max(len(row.prompt) + row.sampling.max_new_tokens for row in rows)
        if self.context is not None and longest > self.context:
            raise UserError(
                f"prompt and answer may reach {longest} tokens, but this model's context has {self.context}; shorten "
                "max_new_tokens or the prompts"
            )
        if self.window is not None and longest > self.window:
            raise UserError(
                f"prompt and answer may reach {longest} tokens, but this model attends to the last {self.window} only, "
                "which the engine does not do; shorten max_new_tokens or the prompts"
            )
        for group in _prefills(rows):
            self._join(group)

    def _join(self, rows: Sequence[Row]) -> None:
        prompts = {tuple(row.prompt): None for row in rows}
        place = {prompt: index for index, prompt in enumerate(prompts)}
        device = self.model.device
        source = torch.tensor([place[tuple(row.prompt)] for row in rows], device=device)
        lengths, logits, states = self._prefill(list(prompts), source)
        width = max(map(len, prompts))
        self._compact()
        self._room(width)
        self.cache.put(states)
        self.cache.column = max(self.cache.column, width)
        self.seen = torch.cat([self.seen, column_mask(lengths[source], self.cache.columns)])
        self.position = torch.cat([self.position, lengths[source]])
        self.logits = torch.cat([self.logits, logits[source].float()])
        options = [row.sampling for row in rows]
        self.temperature = torch.cat([self.temperature, torch.tensor([o.temperature for o in options], device=device)])
        self.top_p = torch.cat([self.top_p, torch.tensor([o.top_p for o in options], device=device)])
        draws = [uniforms(row.sampling.seed, row.number, row.sampling.max_new_tokens) for row in rows]
        width = max(self.u.shape[1], *(len(d) for d in draws))
        joined = np.zeros((len(self.rows) + len(rows), width))
        joined[: len(self.rows), : self.u.shape[1]] = self.u
        for index, values in enumerate(draws, len(self.rows)):
            joined[index, : len(values)] = values
        self.u = joined
        self.rows.extend(rows)
        self.alive += len(rows)

    def _prefill(
        self, prompts: Sequence[tuple[int, ...]], source: Tensor
    ) -> tuple[Tensor, Tensor, Iterator[tuple[Tensor, Tensor]]]:
        """Lengths of the prompts, the logits after each, and of each layer the keys and values of rows that have read
        prompts[source]: [rows, heads, columns, head width]."""
        model, device = self.model, self.model.device
        listed = [len(prompt) for prompt in prompts]
        lengths = torch.tensor(listed, device=device)
        start = common_start(prompts) if len(prompts) > 1 else 0
        if start < WORTH and min(listed) < max(listed) and packs(model, max(listed)):
            ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
            columns = torch.arange(max(listed), device=device)
            ends = lengths.cumsum(0)
            cache = DynamicCache()
            positions = columns.expand(len(prompts), -1)[columns < lengths[:, None]]
            hidden = packed_states(model, ids, positions, row_layout(listed, device), cache)
            # Of each row the tokens of its prompt; behind a short one stand others, which the row's mask hides.
            places = ((ends - lengths)[source][:, None] + columns).clamp(max=len(ids) - 1)
            states = (tuple(x[0][:, places].transpose(0, 1) for x in both) for both in states_of(cache))
            return lengths, project(model, hidden[ends - 1]), states
        start = start if start >= WORTH else 0
        ids, rest = (tensor.to(device) for tensor in pad_right([prompt[start:] for prompt in prompts], self.pad))
        cache = prefilled(model, prompts[0][:start], len(ids))
        hidden = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        logits = project(model, hidden[torch.arange(len(ids), device=device), rest - 1])
        return lengths, logits, ((keys[source], values[source]) for keys, values in states_of(cache))

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row and look one token further. Returns the rows that were finished by it."""
        steps = [min(len(row.tokens), self.u.shape[1] - 1) for row in self.rows]
        u = torch.from_numpy(self.u[np.arange(len(steps)), steps]).to(self.logits.device)
        nucleus = any(row.sampling.top_p < 1 for row in self.rows)
        takes = any(row.sampling.temperature == 0 for row in self.rows)
        ids, logprobs = draw(self.logits, self.temperature, self.top_p, u, nucleus=nucleus, takes=takes)
        # One copy, for a GPU is waited for at each; doubles hold both exactly.
        tokens, numbers = torch.stack([ids.double(), logprobs.double()]).tolist()
        finished = []
        for row, token, logprob in zip(self.rows, map(int, tokens), numbers):
            if row.finish_reason is not None:
                continue  # a finished row stays, unread, until enough have gathered to make moving the rest pay
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in row.stop:
                row.finish_reason = "stop"
            elif len(row.tokens) >= row.sampling.max_new_tokens:
                row.finish_reason = "length"
            if row.finish_reason is not None:
                finished.append(row)
        self.alive -= len(finished)
        if self.alive < KEEP * len(self.rows):
            ids = ids[self._compact()]
        if self.rows:
            self._forward(ids)
        return finished

    @torch.inference_mode()
    def drop(self, gone: Sequence[Row]) -> None:
        """Take rows out before they are finished: their client went away."""
        for row in gone:
            if row.finish_reason is None:
                row.finish_reason = "length"
                self.alive -= 1
        self._compact()

    @property
    def free(self) -> int:
        """Rows that may join."""
        return self.capacity - self.alive

    def _compact(self) -> Tensor:
        """Move rows from the end into the places of the finished ones; returns the former place of each."""
        alive = [row.finish_reason is None for row in self.rows]
        count = sum(alive)
        behind = iter([place for place in range(count, len(alive)) if alive[place]])
        places = [place if alive[place] else next(behind) for place in range(count)]
        keep = torch.tensor(places, dtype=torch.long, device=self.position.device)
        if count < len(self.rows):
            self.rows = [self.rows[place] for place in places]
            self.cache.keep(keep)
            self.seen, self.position, self.logits = self.seen[keep], self.position[keep], self.logits[keep]
            self.temperature, self.top_p, self.u = self.temperature[keep], self.top_p[keep], self.u[places]
            if not places:
                self.cache.column = 0
        return keep

    def _forward(self, ids: Tensor) -> None:
        self._room()
        column = self.cache.column
        self.seen[:, column] = True
        mask = self.seen[:, : self.cache.end(1)]
        # A finished row that still stands in the batch goes on unread; it must not run off a table of positions.
        position = self.position if self.context is None else self.position.clamp(max=self.context - 1)
        hidden = self.model.base_model(
            input_ids=ids[:, None],
            attention_mask=mask[:, None, None, :],
            position_ids=position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.cache.column += 1
        self.position = self.position + 1
        self.logits = project(self.model, hidden[:, -1]).float()

    @torch.inference_mode()
    def close_gaps(self) -> None:
        """Move every row's columns together. Rows that left and joined make gaps, which cost room and time."""
        if not self.rows:
            return
        own = self.seen.sum(-1)
        longest = int(own.max())
        order = (~self.seen).long().argsort(dim=-1, stable=True)[:, :longest]
        self.cache.gather_columns(order)
        self.seen = column_mask(own, self.cache.columns)
        self.cache.column = longest

    def _room(self, width: int = 0) -> None:
        """Make sure that prompts of `width` columns and one more token fit: close gaps first, grow when that is not
        enough."""
        if max(self.cache.column, width) + 1 <= self.cache.columns:
            return
        self.close_gaps()
        self.cache.grow(max(self.cache.column, width) + 1)
        if self.seen.shape[1] < self.cache.columns:
            extra = self.seen.new_zeros(len(self.seen), self.cache.columns - self.seen.shape[1])
            self.seen = torch.cat([self.seen, extra], -1)


def _prefills(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups whose prompts go through the model together: all of them where they share a long start."""
    prompts = {tuple(row.prompt) for row in rows}
    if common_start(list(prompts)) >= WORTH:
        return [list(rows)]
    groups: list[list[Row]] = [[]]
    seen: set[tuple[int, ...]] = set()
    tokens = 0
    for row in rows:
        prompt = tuple(row.prompt)
        tokens += 0 if prompt in seen else len(prompt)
        if groups[-1] and tokens > PREFILL and prompt not in seen:
            groups.append([])
            seen, tokens = set(), len(prompt)
        seen.add(prompt)
        groups[-1].append(row)
    return groups
