"""The worker thread: greedy answers are those of transformers, whoever shares the batch; cancel, queue, failure."""

import time

import pytest
import torch
from server import TEXT
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preceptor.config import ServeConfig
from preceptor.models.load import load_policy
from preceptor.models.save import save_model
from preceptor.rollout.batch import Row
from preceptor.serving.answer import Answer, Inbox
from preceptor.serving.asking import ask_text, begin
from preceptor.serving.models import Models
from preceptor.serving.requests import TextRequest, parse
from preceptor.serving.words import Words
from preceptor.serving.worker import Broken, Busy, Closed, Worker, score_tokens
from preceptor.store import Workspace
from preceptor.text.tokenizer import train_tokenizer
from preceptor.types import ModelCard, Sampling

V = 420
KINDS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            initializer_range=0.3,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=V,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=64,
            initializer_range=0.3,
        )
    ),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=V,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            initializer_range=0.3,
        )
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT * 20], V)


@pytest.fixture(scope="module", params=list(KINDS))
def folder(request, tokenizer, tmp_path_factory):
    torch.manual_seed(3)
    model = KINDS[request.param]()
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    place = tmp_path_factory.mktemp("models") / request.param
    return save_model(place, model.eval(), tokenizer, ModelCard(name=request.param, stage="test"))


def answer_of(words, prompt, limit, number=0, **sampling):
    row = Row(prompt=prompt, sampling=Sampling(max_new_tokens=limit, **sampling), number=number, stop=frozenset([0]))
    return Answer(words, row, Inbox())


def wait(answers, seconds=60):
    """Every answer's text, once all are finished."""
    texts = []
    for one in answers:
        text = ""
        while True:
            piece = one.inbox.pieces.get(timeout=seconds)
            if piece.error:
                raise piece.error
            text += piece.text
            if piece.finish:
                break
        texts.append(text)
    return texts


@pytest.fixture
def worker(folder):
    made = Worker("test", load_policy(folder), 1, rows=4, queue=6, context=512)
    yield made
    made.close()


def test_greedy_answers_are_those_of_transformers(folder, tokenizer, worker):
    """Token for token, while rows of other lengths come and go."""
    own = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [tokenizer(text)["input_ids"] for text in ("The quick brown", "A", "How to make tea for a user?", TEXT)]
    limits = [40, 25, 60, 33]
    words = Words(tokenizer)
    noise = [answer_of(words, prompts[number % 2], 9 + number, number, seed=5) for number in range(3)]
    worker.submit(noise[:2])
    answers = [answer_of(words, prompt, limit, temperature=0.0) for prompt, limit in zip(prompts, limits)]
    worker.submit(answers[:2])
    time.sleep(0.05)
    worker.submit([*answers[2:], noise[2]])
    wait([*answers, *noise])
    for prompt, limit, one in zip(prompts, limits, answers):
        ids = torch.tensor([prompt])
        expected = own.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
        assert one.row.tokens == expected[0, len(prompt) :].tolist()


def test_scores_are_the_models_log_probabilities(folder, tokenizer):
    model = load_policy(folder)
    tokens = tokenizer(TEXT[:60])["input_ids"]
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    scored = score_tokens(model, tokens, 3)
    assert len(scored) == len(tokens) - 1
    for place, (logprob, top) in enumerate(scored):
        assert logprob == pytest.approx(float(logprobs[place, tokens[place + 1]]), abs=1e-4)
        assert [token for token, _ in top] == logprobs[place].topk(3).indices.tolist()


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("models") / "llama"
    save_model(place, KINDS["llama"]().eval(), tokenizer, ModelCard(name="llama", stage="test"))
    return load_policy(place)


def test_a_cancelled_answer_makes_room_and_the_others_go_on(llama, tokenizer):
    worker = Worker("test", llama, 1, rows=2, queue=2, context=2048)
    words = Words(tokenizer)
    long = [answer_of(words, [5, 6], 2000, number) for number in range(3)]
    for one in long:
        one.row.stop = frozenset()
    worker.submit(long)  # two decode, one waits
    next_one = answer_of(words, [7], 5, 9)
    worker.submit([next_one])
    worker.cancel(long[:1])
    worker.cancel([long[2]])  # it never had a row
    wait([next_one])
    assert worker.load == (1, 0)
    worker.cancel([long[1]])
    worker.close()


def test_a_full_queue_refuses_and_takes_nothing(llama, tokenizer):
    worker = Worker("test", llama, 1, rows=1, queue=2, context=2048)
    words = Words(tokenizer)
    first = [answer_of(words, [5], 2000, number) for number in range(3)]
    worker.submit(first)
    with pytest.raises(Busy) as refused:
        worker.submit([answer_of(words, [5], 3, 7)])
    assert 0 < refused.value.seconds <= 60
    assert sum(worker.load) == 3
    worker.cancel(first)
    worker.close()
    with pytest.raises(Closed):
        worker.submit([answer_of(words, [5], 3, 8)])


def test_close_finishes_what_was_taken(llama, tokenizer):
    worker = Worker("test", llama, 1, rows=2, queue=8, context=512)
    answers = [answer_of(Words(tokenizer), [5, 6], 30, number) for number in range(6)]
    worker.submit(answers)
    worker.close()
    assert all(one.finished for one in answers)
    assert all(isinstance(text, str) for text in wait(answers))


def test_a_failed_step_is_told_and_the_next_request_works(llama, tokenizer, monkeypatch, caplog):
    worker = Worker("test", llama, 1, rows=2, queue=8, context=512)
    words = Words(tokenizer)
    monkeypatch.setattr("preceptor.serving.worker.likelihoods", None)
    broken = answer_of(words, [5, 6], 30)
    broken.top = 1  # the step will call None
    worker.submit([broken])
    with pytest.raises(Broken):
        wait([broken])
    assert "TypeError" in caplog.text
    good = answer_of(words, [5, 6], 4)
    worker.submit([good])
    wait([good])
    worker.close()


def test_models_are_unloaded_when_others_need_the_room_and_loaded_again_when_replaced(tmp_path, tokenizer):
    workspace = Workspace.create(tmp_path / "w")
    for seed, name in enumerate(("a", "b", "c")):
        torch.manual_seed(seed)
        save_model(workspace.model(name), KINDS["llama"](), tokenizer, ModelCard(name=name, stage="test"))
    models = Models(workspace, ServeConfig(loaded=2, context=256))
    with models.use("a") as first:
        with models.use("b"), pytest.raises(Exception, match="busy"), models.use("c"):
            pass
        with models.use("c"):
            assert set(models.loads()) == {"a", "c"}
    torch.manual_seed(9)
    save_model(workspace.model("a"), KINDS["llama"](), tokenizer, ModelCard(name="a", stage="test"))
    with models.use("a") as again:
        assert again.id != first.id
        assert again.context == 256
    models.close()


def test_reward_models_are_not_offered(tmp_path, tokenizer):
    workspace = Workspace.create(tmp_path / "w")
    save_model(workspace.model("a"), KINDS["llama"](), tokenizer, ModelCard(name="a", stage="test"))
    folder = workspace.model("reward")
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    models = Models(workspace, ServeConfig())
    assert models.names() == ["a"]
    with pytest.raises(Exception, match="no model 'reward'"), models.use("reward"):
        pass


def test_a_request_outside_an_event_loop(tmp_path, tokenizer):
    """As the terminal chat does it."""
    workspace = Workspace.create(tmp_path / "w")
    save_model(workspace.model("a"), KINDS["llama"](), tokenizer, ModelCard(name="a", stage="test"))
    models = Models(workspace, ServeConfig())
    lease = models.use("a")
    served = lease.__enter__()
    wanted = parse(TextRequest, b'{"model": "a", "prompt": "The", "max_tokens": 5}')
    flow = begin(models, lease, served, ask_text(served, wanted), "cmpl", strip=False)
    wait(flow.answers)
    flow.close()
    models.close()
