"""lm-evaluation-harness gets log-likelihoods from /v1/completions with its own API client; ours are the same."""

import pytest
import server as servers

from preceptor.rollout.subject import LocalSubject

PAIRS = [
    ("The quick brown fox jumps over", " the lazy dog."),
    ("A user asks how to make tea; the answer is to", " boil water first."),
    ("Größe, naïve café,", " 東京, emoji 🙂 and code"),
    (servers.TEXT.strip(), " The quick brown fox"),  # the harness moves a space at the end of a context
    ("The", " quick"),
]


def test_log_likelihoods_are_those_of_our_own_evaluator(server, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lm_eval[api]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    folder = server.workspace.model("alpha")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    client = LocalCompletionsAPI(
        model="alpha",
        base_url=f"{server.url}/v1/completions",
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        num_concurrent=1,
        max_length=2048,
    )
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n) for n, pair in enumerate(PAIRS)]
    found = client.loglikelihood(asked, disable_tqdm=True)
    own = LocalSubject(folder).loglikelihood(PAIRS)
    assert [theirs for theirs, _ in found] == pytest.approx([ours[0] for ours in own], abs=1e-3)
