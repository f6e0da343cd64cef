"""Policy, reference, value and reward model of PPO over one set of frozen weights.

The reference is the base itself. The other three are the same weights with an adapter each; value and reward model have
a scalar head of their own too.
"""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from preceptor.errors import UserError
from preceptor.models.adapters import Lora, adapt, find_adapter, put_adapter, read_adapter, twin
from preceptor.models.load import load_policy, read_config
from preceptor.models.save import lineage, read_card


def share_base(
    source: Path, judge: Path, lora: Lora, seed: int, device: torch.device | None = None, *, attention: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedModel, PreTrainedModel]:
    """(policy, reference, value, reward) of `source` and of the reward model `judge`, whose adapter was trained on it.

    Policy and value are trained; the policy starts as the reference, the value model as the reward model. Raises
    UserError for a reward model that cannot share its base (see `check_shares`).
    """
    check_shares(source, judge)
    reference = load_policy(source, device, attention=attention).requires_grad_(False)
    policy = adapt(twin(reference), lora, seed)
    value, reward = (scalar_twin(reference, judge) for _ in range(2))
    return policy, reference, value, reward.requires_grad_(False)


def check_shares(source: Path, judge: Path) -> None:
    """Raises UserError unless `judge` keeps an adapter that was trained over the weights of `source` as they are."""
    card, base = read_card(judge), lineage(source)
    way = f"train it with: preceptor reward --model {source.name} --lora-rank R"
    if find_adapter(judge) is None:
        raise UserError(f"the reward model {judge.name} has no adapter, so it cannot share the policy's base; {way}")
    under = card.parents.get("model") if card else None
    if under != base:
        raise UserError(
            f"the reward model {judge.name} is an adapter over {under or 'an unknown model'}, the reference is {base}; "
            f"one base has to carry both: {way}"
        )


def scalar_twin(base: PreTrainedModel, judge: Path) -> PreTrainedModel:
    """The scalar model in `judge` over the weights of `base`, with an adapter and a head of its own, trainable."""
    with torch.device("meta"):  # its own body is thrown away at once, so it takes no memory
        model = AutoModelForSequenceClassification.from_config(read_config(judge))
    setattr(model, model.base_model_prefix, twin(base.base_model))
    model.score.to_empty(device=base.device)
    where = find_adapter(judge)
    assert where is not None
    return put_adapter(model, read_adapter(where), where).eval()
