"""A conversation as token ids, and back: the one place that knows a model's prompt format."""

from collections.abc import Sequence

from preceptor.errors import UserError
from preceptor.types import Message

# For tokenizers that bring no chat template: plain text, so that a base model has seen its like.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% else %}Assistant: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

_MARK = "\u2603answer\u2603"


class Chat:
    """Prompts and answers for one tokenizer.

    `prompt(messages)` ends where the assistant's words begin, `answer(text)` is what follows and ends with the
    end-of-text token. They are tokenised apart, so an answer has the same ids whatever the prompt. A control token that
    a person typed (`<|endoftext|>`) is broken by a zero-width space, so that it stays text and controls nothing.
    """

    def __init__(self, tokenizer):
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token; set eos_token in its "
                "tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.eos = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else self.eos
        if not tokenizer.chat_template:
            bos = "{{ bos_token }}" if _adds_bos(tokenizer) else ""
            tokenizer.chat_template = bos + PLAIN_TEMPLATE
        asked = [{"role": "user", "content": "x"}]
        start = self._render(asked, True)
        whole = self._render([*asked, {"role": "assistant", "content": _MARK}], False)
        at = whole.find(_MARK)
        # What stands between the generation prompt and the answer, a space for instance, belongs to the answer.
        self.lead = whole[len(start) : at] if whole.startswith(start) and at >= len(start) else ""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation up to where the assistant answers."""
        text = self._render([{"role": m.role, "content": self._plain(m.content)} for m in messages], True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer, the end-of-text token included."""
        return self.answers([text])[0]

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        rows = self.tokenizer([self.lead + self._plain(text) for text in texts], add_special_tokens=False)["input_ids"]
        return [[*row, self.eos] for row in rows]

    def read(self, ids: Sequence[int]) -> str:
        """The words of an answer: what `answer` would have been given."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _plain(self, text: str) -> str:
        for token in self.control:
            text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
        return text

    def _render(self, messages: list[dict], generate: bool) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)


def _adds_bos(tokenizer) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
