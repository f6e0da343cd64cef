"""Prompts that users let us keep: through the rules of intake, into the store, where labelers and stages find them."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from preceptor.intake.dedup import CommonPrefix, NearDuplicates
from preceptor.intake.importing import MAX_TOKENS, estimated_tokens
from preceptor.intake.pii import mask
from preceptor.intake.splits import CAP, split_of
from preceptor.store import Workspace
from preceptor.types import Completion, Message, Prompt

Outcome = Literal["kept", "known", "duplicate", "over-cap", "too-long", "no-instruction", "bad-text"]
OUTCOMES = ("kept", "known", "duplicate", "over-cap", "too-long", "no-instruction", "bad-text")


class Pool:
    """Offers are judged by what the store held when the first one came, and by all that came through here since."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.lock = threading.Lock()
        self.alike: tuple[CommonPrefix, NearDuplicates] | None = None

    def offer(self, messages: Sequence[Message], user_id: str, meta: Mapping[str, Any]) -> tuple[Outcome, Prompt]:
        """Keep a prompt whose user consented; when this returns `kept` or `known` it is on the disk.

        Personal data is masked, near-duplicates are left out, a user has at most 200 prompts, and all prompts of a
        user stand in one split. The prompt that comes back is the masked one.
        """
        found: Counter[str] = Counter()
        clean = tuple(Message(role=message.role, content=mask(message.content, found)) for message in messages)
        meta = _masked(meta) | ({"masked": dict(found)} if found else {})
        prompt = Prompt.chat(clean, user_id=user_id, split=split_of(user_id), meta=meta, consent=True)
        reason = _unfit(prompt)
        if reason is not None:
            return reason, prompt
        with self.lock:
            while True:
                outcome = self._judge(prompt)
                if outcome is not None:
                    return outcome, prompt
                self.alike = None  # what it resembles was deleted since: look at the store anew

    def _judge(self, prompt: Prompt) -> Outcome | None:
        """What becomes of a prompt, which is kept if it may be; None where it resembles one that is gone."""
        store, (prefixes, near) = self.workspace.store, self._alike()
        try:
            with store.write() as connection:
                known = store.prompts_by_id([prompt.id], connection).get(prompt.id)
                if known is not None:
                    return "known" if known.consent else "duplicate"
                if store.count_prompts_of(prompt.user_id, connection) >= CAP:
                    return "over-cap"
                found = prefixes.find_or_add(prompt.id, prompt.text)
                if not found and (found := near.find_or_add(prompt.id, prompt.text)):
                    prefixes.forget(prompt.text)  # only what is kept is remembered
                if found:
                    return "duplicate" if store.prompts_by_id([found], connection) else None
                store.add_prompts([prompt], connection)
        except BaseException:
            self.alike = None  # it may remember a prompt that was not kept
            raise
        return "kept"

    def record(self, completions: Sequence[Completion]) -> None:
        """Remember which model answered a kept prompt, and how; personal data in the answer is masked too.

        NUL, which databases refuse, becomes the replacement character.
        """
        clean = (replace(one, text=mask(one.text.replace("\0", "\ufffd"))) for one in completions)
        self.workspace.store.add_completions(clean)

    def _alike(self) -> tuple[CommonPrefix, NearDuplicates]:
        if self.alike is None:
            self.alike = CommonPrefix(), NearDuplicates()
            for prompt in self.workspace.store.prompts():
                for rule in self.alike:
                    rule.find_or_add(prompt.id, prompt.text)
        return self.alike


def _masked(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every text in it masked, in dictionaries inside it too."""
    out: dict[str, Any] = {}
    for name, value in meta.items():
        out[name] = _masked(value) if isinstance(value, Mapping) else mask(value) if isinstance(value, str) else value
    return out


def _unfit(prompt: Prompt) -> Outcome | None:
    if prompt.messages[-1].role != "user" or not prompt.messages[-1].content.strip():
        return "no-instruction"
    if any("\0" in message.content for message in prompt.messages):
        return "bad-text"
    return "too-long" if estimated_tokens(prompt) > MAX_TOKENS else None
