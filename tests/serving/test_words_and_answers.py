"""Text from tokens: nothing lost, nothing shown that a stop text or a later byte takes back."""

import json
import random

import pytest
from server import TEXT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from preceptor.serving.answer import Answer
from preceptor.serving.news import Order
from preceptor.serving.words import Words
from preceptor.text.tokenizer import train_tokenizer
from preceptor.types import Sampling


def metaspace_tokenizer():
    """One like Llama 2's: spaces as ▁, characters it does not know as bytes."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], show_progress=False)
    learned.train_from_iterator(["The quick brown fox jumps over the lazy dog. " * 20], trainer)
    model = json.loads(learned.to_str())["model"]
    vocabulary = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in model["merges"]]
    raw = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def words(request):
    tokenizer = train_tokenizer([TEXT * 20], 420) if request.param == "byte-level" else metaspace_tokenizer()
    return Words(tokenizer)


def answer(words, **settings):
    return Answer(words, Order(prompt=[2], sampling=Sampling(), **settings), 0, frozenset())


def feed(words, text, **settings):
    one = answer(words, **settings)
    tokens = words.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = []
    for place, token in enumerate(tokens):
        piece = one.push(token, "length" if place == len(tokens) - 1 else None)
        pieces += [piece] if piece else []
        if pieces and pieces[-1].finish:
            break
    return pieces


def test_pieces_put_together_are_the_text(words):
    text = "Größe der 東京 café 🙂🙂 is  two spaces\n\nand a fox."
    tokens = words.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = feed(words, text)
    assert "".join(piece.text for piece in pieces) == words.decode(tokens)
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_random_bytes_read_as_the_tokenizer_reads_them():
    words = Words(train_tokenizer([TEXT * 20], 420))
    for seed in range(50):
        tokens = random.Random(seed).choices(range(2, len(words.tokenizer)), k=60)
        reader = words.reader()
        assert "".join(map(reader.push, tokens)) + reader.flush() == words.decode(tokens)


def test_every_way_to_cut_at_a_stop_text(words):
    text = "The quick brown fox jumps over the lazy dog"
    for stop in ("fox", "k b", "e", " jumps over", "T", "dog", "not there"):
        shown = "".join(piece.text for piece in feed(words, text, stops=["never", stop]))
        assert shown == text.split(stop)[0]


def test_a_text_that_only_begins_like_a_stop_text_is_shown_in_the_end(words):
    pieces = feed(words, "The quick brown fox", stops=["fox jumps"])
    assert "".join(piece.text for piece in pieces) == "The quick brown fox"
    assert all("fo" not in piece.text for piece in pieces[:-1])


def test_white_space_at_the_ends_is_left_out_and_inside_kept(words):
    pieces = feed(words, "  The quick\n\n brown \n", strip=True)
    assert "".join(piece.text for piece in pieces) == "The quick\n\n brown"
    assert pieces[0].text[0] == "T"


def test_logprobs_go_with_the_text_that_is_shown():
    words = Words(train_tokenizer([TEXT * 20], 420))
    pieces = feed(words, "The quick brown fox", top=0, stops=["brown"])
    drawn = [one for piece in pieces for one in piece.drawn]
    assert [words.label(one.token) for one in drawn] == ["The", " quick", " brown"][: len(drawn)]
    assert [one.start for one in drawn] == [0, 3, 9][: len(drawn)]


def test_labels_of_parts_of_characters_are_their_bytes():
    words = Words(train_tokenizer(["a" * 50], 300))
    ids = words.tokenizer("é", add_special_tokens=False)["input_ids"]
    assert [words.label(token) for token in ids] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert words.bytes_of(words.tokenizer.eos_token_id) == b"<|endoftext|>"
