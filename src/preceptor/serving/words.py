"""From tokens to text, a token at a time, without ever showing half a character."""

import codecs
from collections.abc import Sequence
from functools import cache

from tokenizers import decoders

LOOK_BACK = 16  # tokens that may wait for a character to become whole


@cache
def _byte_of() -> dict[str, int]:
    """The letters that byte-level BPE (GPT-2) writes bytes with: printable Latin-1 as itself, the rest from 256 up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


class Words:
    """What each token of a tokenizer says."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        self.added = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.byte_level = isinstance(getattr(backend, "decoder", None), decoders.ByteLevel)
        self._bytes: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; those of its name where it is a special one."""
        if token not in self._bytes:
            self._bytes[token] = self._make_bytes(token)
        return self._bytes[token]

    def _make_bytes(self, token: int) -> bytes:
        if token in self.added:
            return self.added[token].encode()
        if self.byte_level:
            letters = self.tokenizer.convert_ids_to_tokens(token)
            if letters is None:
                return b""  # the model's vocabulary is padded beyond the tokenizer's
            return bytes(_byte_of()[letter] for letter in letters)
        return self.decode([token]).encode()

    def label(self, token: int) -> str:
        """A token as text; `bytes:` and its bytes where it is only a part of a character."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def reader(self) -> "ByteReader | WindowReader":
        return ByteReader(self) if self.byte_level else WindowReader(self)


class ByteReader:
    """For byte-level tokenizers: a token is bytes, and UTF-8 says where a character ends."""

    def __init__(self, words: Words):
        self.words = words
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return "" if token in self.words.special else self.utf8.decode(self.words.bytes_of(token))

    def flush(self) -> str:
        return self.utf8.decode(b"", True)


class WindowReader:
    """For all others: what a token adds is the text with it less the text without it, over the last few tokens."""

    def __init__(self, words: Words):
        self.words = words
        self.tokens: list[int] = []
        self.start = self.read = 0  # text up to `read` was given out; decoding begins at `start`, for its spaces

    def push(self, token: int) -> str:
        if token in self.words.special:
            return ""
        self.tokens.append(token)
        return self._new(whole=len(self.tokens) - self.read < LOOK_BACK)

    def flush(self) -> str:
        return self._new(whole=False)

    def _new(self, *, whole: bool) -> str:
        before = self.words.decode(self.tokens[self.start : self.read])
        text = self.words.decode(self.tokens[self.start :])
        if whole and text.endswith("\ufffd"):
            return ""
        self.start, self.read = self.read, len(self.tokens)
        return text[len(before) :]
