"""The worker thread: greedy answers are those of transformers, whoever shares the batch; cancel, queue, failure."""

import time

import pytest
import torch
from architectures import KINDS, V
from server import ENDLESS, TEXT, endless
from transformers import AutoModelForCausalLM

from preceptor.config import ServeConfig
from preceptor.models.load import load_policy
from preceptor.models.save import save_model
from preceptor.serving.answer import Answer
from preceptor.serving.asking import ask_text, begin
from preceptor.serving.errors import ApiError
from preceptor.serving.models import Models
from preceptor.serving.news import Broken, Busy, Closed, Inbox, Order, deliver
from preceptor.serving.requests import TextRequest, parse
from preceptor.serving.words import Words
from preceptor.serving.worker import Worker, score_tokens
from preceptor.store import Workspace
from preceptor.text.tokenizer import train_tokenizer
from preceptor.types import ModelCard, Sampling

MANY = 1_000_000  # texts to score: hours of work


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
    order = Order(prompt=prompt, sampling=Sampling(max_new_tokens=limit, **sampling), number=number)
    return Answer(words, order, Inbox(), frozenset([0]))


def wait(answers):
    """Every answer's text, once all are finished."""
    texts = []
    for one in answers:
        text = ""
        while True:
            piece = one.inbox.pieces.get()
            if piece.error:
                raise piece.error
            text += piece.text
            if piece.finish:
                break
        texts.append(text)
    return texts


@pytest.fixture
def worker(folder):
    made = Worker("test", load_policy(folder), 1, rows=4, context=512, deliver=deliver)
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
    assert score_tokens(model, tokens[:1], 3) == []
    for place, (logprob, top) in enumerate(scored):
        assert logprob == pytest.approx(float(logprobs[place, tokens[place + 1]]), abs=1e-4)
        assert [token for token, _ in top] == logprobs[place].topk(3).indices.tolist()


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("models") / "llama"
    save_model(place, roomy(), tokenizer, ModelCard(name="llama", stage="test"))
    return load_policy(place)


def roomy():
    """A Llama with a context that no test lives to see filled."""
    model = KINDS["llama"]()
    model.config.max_position_embeddings = ENDLESS
    return model.eval()


def test_a_cancelled_answer_makes_room_and_the_others_go_on(llama, tokenizer):
    worker = Worker("test", llama, 1, rows=2, context=ENDLESS, deliver=deliver)
    words = Words(tokenizer)
    long = [answer_of(words, [5, 6], ENDLESS - 2, number) for number in range(3)]
    for one in long:
        one.row.stop = frozenset()
    worker.submit(long)  # two decode, one waits
    next_one = answer_of(words, [7], 5, 9)
    worker.submit([next_one])
    worker.cancel([long[2]])  # it never had a row
    worker.cancel(long[:1])
    wait([next_one])
    assert worker.load == (1, 0)
    worker.cancel([long[1]])
    worker.close()


def test_close_finishes_what_was_taken(llama, tokenizer):
    worker = Worker("test", llama, 1, rows=2, context=512, deliver=deliver)
    answers = [answer_of(Words(tokenizer), [5, 6], 30, number) for number in range(6)]
    worker.submit(answers)
    worker.close()
    assert all(one.finished for one in answers)
    assert all(isinstance(text, str) for text in wait(answers))


def test_a_failed_step_is_told_and_the_next_request_works(llama, tokenizer, monkeypatch, caplog):
    worker = Worker("test", llama, 1, rows=2, context=512, deliver=deliver)
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


@pytest.fixture
def workspace(tmp_path, tokenizer):
    """Three models, called a, b and c, whose greedy answers are as long as they may be."""
    workspace = Workspace.create(tmp_path / "w")
    for seed, name in enumerate(("a", "b", "c")):
        torch.manual_seed(seed)
        model = roomy()
        endless(model, tokenizer)
        save_model(workspace.model(name), model, tokenizer, ModelCard(name=name, stage="test"))
    return workspace


def order(limit, number=0):
    return Order(prompt=[5], sampling=Sampling(max_new_tokens=limit, temperature=0.0), number=number)


def finished(inbox):
    """The tokens of an answer, once it is complete."""
    while True:
        piece = inbox.pieces.get()
        if piece.error:
            raise piece.error
        if piece.finish:
            return piece.tokens


def test_a_full_queue_refuses_and_takes_nothing(workspace):
    models = Models(workspace, ServeConfig(rows=1, queue=2))
    with models.use("a") as served:
        running, inbox = served.running, Inbox()
        first = running.submit(inbox, [order(ENDLESS - 1, number) for number in range(3)])
        with pytest.raises(Busy) as refused:
            running.submit(Inbox(), [order(3)])
        assert 0 < refused.value.seconds <= 60
        running.cancel(first)
        again = Inbox()
        running.submit(again, [order(3)])
        assert finished(again) == 3
        assert running.load == (0, 0)
    models.close()
    with pytest.raises(Closed):
        running.submit(Inbox(), [order(3)])


def test_a_cancelled_score_is_not_computed_and_leaves_nothing(workspace):
    models = Models(workspace, ServeConfig())
    with models.use("a") as served:
        running = served.running
        request, scored = running.score([[5] * 2000] * MANY, 1)
        scored.cancel()  # as the event loop does when the client goes away
        running.cancel(request)
        assert running.scores == set()
        assert running.engine.replies == {}
        inbox = Inbox()
        running.submit(inbox, [order(3)])
        assert finished(inbox) == 3
        while running.load != (0, 0):
            time.sleep(0.01)
    models.close()


def test_when_the_models_process_dies_its_answers_fail_and_the_next_request_starts_another(workspace):
    models = Models(workspace, ServeConfig())
    with models.use("a") as served:
        inbox = Inbox()
        served.running.submit(inbox, [order(ENDLESS - 1), order(ENDLESS - 1, 1)])
        scored = served.running.score([[5] * 2000] * MANY, 1)[1]
        models.engine.process.kill()
        with pytest.raises(Broken, match="ended"):
            finished(inbox)
        with pytest.raises(Broken, match="ended"):
            scored.result()
        with pytest.raises((Closed, Broken)):
            served.running.submit(Inbox(), [order(3)])
    with models.use("a") as again:
        inbox = Inbox()
        again.running.submit(inbox, [order(3)])
        assert finished(inbox) == 3
    process = models.engine.process
    models.close()
    assert process.poll() == 0


def test_a_folder_that_cannot_be_loaded_is_told(workspace):
    (workspace.model("a") / "model.safetensors").write_bytes(b"nothing")
    models = Models(workspace, ServeConfig())
    with pytest.raises(ApiError, match="cannot load") as refused, models.use("a"):
        pass
    assert refused.value.status == 500
    models.close()


def test_models_are_unloaded_when_others_need_the_room_and_loaded_again_when_replaced(workspace, tokenizer):
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


def test_reward_models_are_not_offered(workspace):
    folder = workspace.model("reward")
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    models = Models(workspace, ServeConfig())
    assert models.names() == ["a", "b", "c"]
    with pytest.raises(Exception, match="no model 'reward'"), models.use("reward"):
        pass


def test_a_request_outside_an_event_loop(workspace):
    """As the terminal chat does it."""
    models = Models(workspace, ServeConfig())
    lease = models.use("a")
    served = lease.__enter__()
    wanted = parse(TextRequest, b'{"model": "a", "prompt": "The", "max_tokens": 5}')
    flow = begin(models, lease, served, ask_text(served, wanted), "cmpl", strip=False)
    assert finished(flow.inbox) <= 5
    flow.close()
    models.close()
