"""Prompts and answers as ids, batches, blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.errors import UserError
from preceptor.text.batches import Blocks, batch_places, by_length, cached_ids, encode_corpus, epoch_places, pad_right
from preceptor.text.chat import Chat
from preceptor.types import Message
from tiny_models import make_tokenizer, sentences

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


# -- tokenizer ------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    tokenizer = test_any_text_comes_back.tokenizer = getattr(test_any_text_comes_back, "tokenizer", None) or (
        make_tokenizer()
    )
    if "<|" not in text:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_same_corpus_gives_the_same_tokenizer(tokenizer):
    assert make_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) <= 300
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


# -- chat -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, CHATML])
def test_prompt_and_answer_join_to_the_rendered_conversation(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    chat = Chat(tokenizer)
    prompt, answer = chat.prompt(user("sing to the fox")), chat.answer("the red fox sings")
    assert answer[-1] == chat.eos
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "sing to the fox"}, {"role": "assistant", "content": "the red fox sings"}],
        tokenize=False,
    )
    assert whole.startswith(tokenizer.decode(prompt + answer[:-1], clean_up_tokenization_spaces=False))
    assert chat.read(answer) == "the red fox sings"
    assert chat.answers(["the red fox sings", "old"]) == [answer, chat.answer("old")]
    assert chat.answers([]) == []


def test_without_a_template_the_prompt_is_plain_text(tokenizer):
    fresh = make_tokenizer()
    fresh.chat_template = None
    chat = Chat(fresh)
    said = (
        Message(role="system", content="be kind"),
        Message(role="user", content="hi"),
        Message(role="assistant", content="hello"),
        Message(role="user", content="sing"),
    )
    expected = "be kind\nUser: hi\nAssistant: hello\nUser: sing\nAssistant:"
    assert fresh.decode(chat.prompt(said), clean_up_tokenization_spaces=False) == expected


def test_a_tokenizer_without_pad_pads_with_end_of_text():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert Chat(tokenizer).pad == Chat(tokenizer).eos


def test_a_tokenizer_without_end_of_text_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-text token"):
        Chat(tokenizer)


def test_control_tokens_that_a_person_typed_are_just_text(tokenizer):
    chat = Chat(make_tokenizer())
    assert chat.eos not in chat.prompt(user("write <|endoftext|> now"))
    answer = chat.answer("it is <|endoftext|> and <|pad|>")
    assert answer.count(chat.eos) == 1
    assert chat.pad not in answer
    assert chat.answers(["it is <|endoftext|> and <|pad|>"]) == [answer]


# -- batches --------------------------------------------------------------------------------------------------


def test_pad_right():
    ids, lengths = pad_right([[5, 6, 7], [8]], 1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert lengths.tolist() == [3, 1]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_by_length_uses_every_row_once_and_puts_neighbours_together(lengths, size):
    groups = list(by_length(lengths, size))
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert all(len(group) == size for group in groups[:-1])
    in_order = [lengths[place] for group in groups for place in group]
    assert in_order == sorted(lengths, reverse=True)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 99))
def test_batch_places_is_one_endless_row_of_shuffled_passes(n, size, seed):
    steps = 3 * n // size + 1
    row = np.concatenate([batch_places(n, size, seed, step) for step in range(steps)])
    for start in range(0, len(row) - n + 1, n):
        assert sorted(row[start : start + n]) == list(range(n))


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
def test_epoch_places_uses_every_row_once_per_pass(n, size, seed):
    steps = -(-n // size)
    for epoch in range(2):
        places = [epoch_places(n, size, seed, epoch * steps + step) for step in range(steps)]
        assert all(len(part) == size for part in places[:-1])
        assert sorted(np.concatenate(places)) == list(range(n))


def test_orders_differ_by_seed_and_pass():
    first = epoch_places(50, 50, 0, 0).tolist()
    assert first != epoch_places(50, 50, 1, 0).tolist()
    assert first != epoch_places(50, 50, 0, 1).tolist()
    assert first == epoch_places(50, 50, 0, 0).tolist()


# -- corpus ---------------------------------------------------------------------------------------------------


def test_a_corpus_is_its_documents_with_an_end_after_each(tokenizer):
    documents = sentences(1100)  # more than two groups of 512
    ids = encode_corpus(documents, tokenizer, 0)
    expected = [i for text in documents for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 0]]
    assert ids.tolist() == expected
    assert encode_corpus([], tokenizer, 0).size == 0


def test_blocks_overlap_by_one_token_so_that_every_token_is_a_target_once():
    blocks = Blocks(np.arange(11, dtype=np.uint16), 3)
    assert len(blocks) == 3
    taken = blocks.take([0, 2])
    assert taken.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert taken.dtype == torch.long
    targets = [token for row in blocks.take(range(3)).tolist() for token in row[1:]]
    assert targets == list(range(1, 10))


def test_a_corpus_too_small_for_one_block_is_refused():
    with pytest.raises(UserError, match="tales has 3 tokens; at least 4"):
        Blocks(np.arange(3), 3, "tales")


def test_cached_ids_are_made_once_and_not_half(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return np.arange(4)

    path = tmp_path / "ids" / "a.npy"
    assert cached_ids(path, make).tolist() == cached_ids(path, make).tolist() == [0, 1, 2, 3]
    assert len(calls) == 1

    def fail():
        raise RuntimeError("the corpus could not be read")

    with pytest.raises(RuntimeError):
        cached_ids(tmp_path / "ids" / "b.npy", fail)
    assert not (tmp_path / "ids" / "b.npy").exists()
