"""lm-evaluation-harness as a cross-check of our own figures: the one door to it. The extra `harness` brings it.

Our tasks own the paper's prompts and metrics; this asks the same model the harness's way. Task files are local YAML or
dictionaries with local data; nothing is downloaded by us, but a task of the harness that names a hub data set will be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor.errors import UserError, need_extra
from preceptor.evaluation.subject import Subject


def run_harness(
    subject: Subject, tasks: Sequence[str | dict[str, Any]], *, folder: Path | None = None, limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Task name -> metrics, zero-shot. `folder` holds task YAML files. UserError when the harness is not installed."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise need_extra("lm-evaluation-harness", "harness") from None
    manager = TaskManager(include_path=str(folder) if folder else None)
    found = lm_eval.simple_evaluate(
        model=_wrapped(subject), tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0
    )
    return found["results"]


def _wrapped(subject: Subject):
    from lm_eval.api.model import LM

    class Wrapped(LM):
        """The harness sees our protocol: text in, sums of log-probabilities in nats out."""

        def loglikelihood(self, requests):
            """The harness also asks whether the continuation is the greedy one; no task we check uses it: False."""
            return [(total, False) for total in _totals(subject, [request.args for request in requests])]

        def loglikelihood_rolling(self, requests):
            return _totals(subject, [("", request.args[0]) for request in requests])

        def generate_until(self, requests):
            said = []
            for request in requests:
                prompt, settings = request.args
                length = settings.get("max_gen_toks", 64)
                (text,) = subject.generate([prompt], max_new_tokens=length, stop=tuple(settings.get("until", ())))
                if text is None:
                    raise UserError(_TOO_LONG)
                said.append(text)
            return said

    return Wrapped()


_TOO_LONG = "an item of the harness is longer than the model's context; the harness has no way to leave it out"


def _totals(subject: Subject, pairs: list[tuple[str, str]]) -> list[float]:
    found = subject.loglikelihood(pairs)
    if None in found:
        raise UserError(_TOO_LONG)
    return [one[0] for one in found if one is not None]
