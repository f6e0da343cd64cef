"""Phases and layouts of a made-up model small enough to add up by hand."""

from dataclasses import replace

import pytest

from preceptor.planning import formulas as f
from preceptor.planning import memory as m
from preceptor.planning.activations import Activations
from preceptor.planning.effort import forward, ppo_effort, sft_effort
from preceptor.planning.shape import Shape
from preceptor.planning.work import Cluster, own_work

# 2 layers of 100 parameters, 90 of them in matrices, 50 outside; width 4, vocabulary 10
SHAPE = Shape(
    name="hand",
    architecture="Hand",
    parameters=250,
    scalar_parameters=214,
    root_parameters=50,
    layer_parameters=100,
    layer_matrices=90,
    layer_edges=12,
    layers=2,
    width=4,
    heads=2,
    kv_heads=1,
    head_width=2,
    vocabulary=10,
    context=64,
)
LEFT = Activations(per_layer=30.0, base=8.0, transient=5.0, quiet=3.0)
POLICY, VALUE = m.Model(SHAPE, LEFT, LEFT), m.Model(SHAPE, LEFT, LEFT, scalar=True)
WORK = replace(
    own_work(64),
    demonstrations=8,
    sft_epochs=2,
    sft_batch=4,
    sft_micro_batch=2,
    sft_tokens=6,
    answers=3,
    reward_batch=4,
    reward_micro_batch=1,
    reward_tokens=5,
    iterations=1,
    episodes=8,
    minibatch=4,
    ppo_micro_batch=4,
    prompt_tokens=4,
    answer_tokens=2,
)


def layout(name: str, checkpointing: bool = False) -> m.Layout:
    return next(one for one in m.LAYOUTS if (one.name, one.checkpointing) == (name, checkpointing))


def setting(name: str = "unsharded", gpus: int = 1, checkpointing: bool = False, **changes) -> m.Setting:
    return m.Setting(replace(WORK, **changes), layout(name, checkpointing), gpus)


def phase(phases, name: str) -> dict[str, float]:
    return next(one for one in phases if one.name == name).parts


def test_sft_by_hand():
    """2 rows of 6 tokens: 12 x (2 x 30 + 8) kept; logits 4 copies x 4 bytes x 12 x 10, and 4 x 40 for the head."""
    begins = phase(m.sft_phases(POLICY, setting()), "backward begins")
    assert begins == {
        "policy weights": 1000,
        "policy optimizer": 2000,
        "gradients": 1000,  # of the pass before: the step takes two
        "layers at work": 0,
        "activations": 12 * 68,
        "logits and transients": f.LOGIT_COPIES * 4 * 12 * 10 + 160,
    }
    alone = phase(m.sft_phases(POLICY, setting(sft_micro_batch=4)), "backward begins")
    assert alone["gradients"] == 0  # one pass: they are made while activations go


def test_reward_counts_all_answers_of_a_ranking():
    begins = phase(m.reward_phases(VALUE, setting()), "backward begins")
    assert begins["reward weights"] == 4 * 214
    assert begins["activations"] == 1 * 3 * 5 * 68
    assert begins["logits and transients"] == 15 * 5


def test_sharding_divides_what_stays_and_gathers_two_layers_and_a_gradient():
    begins = phase(m.sft_phases(POLICY, setting("sharded", gpus=2)), "backward begins")
    assert begins["policy weights"] == 500
    assert begins["policy optimizer"] == 1000
    assert begins["layers at work"] == 4 * (50 + 3 * 100)
    assert begins["activations"] == 12 * 68  # its own two rows


def test_checkpointing_keeps_the_inputs_of_layers():
    begins = phase(m.sft_phases(POLICY, setting(checkpointing=True)), "backward begins")
    assert begins["activations"] == 12 * (2 * 4 * 4 + 30 + 8)


def test_lora_trains_adapters_on_one_base():
    trained = 16 * 2 * 12
    s = setting("lora")
    assert s.trained(POLICY) == trained
    assert s.trained(VALUE) == trained + 4  # its scalar head
    stays = m.ppo_resident(POLICY, VALUE, VALUE, s)
    assert stays["base weights"] == 1000  # once for all four roles
    assert stays["reference weights"] == 0
    assert stays["policy optimizer"] == 8 * trained
    other = m.Model(replace(SHAPE, name="other"), LEFT, LEFT, scalar=True)
    assert m.ppo_resident(POLICY, other, other, s)["base weights"] == 1000 + 4 * 214


def test_ppo_by_hand():
    phases = m.ppo_phases(POLICY, VALUE, VALUE, setting())
    stays = m.ppo_resident(POLICY, VALUE, VALUE, setting())
    assert sum(stays.values()) == 4 * (250 * 3 + 214 * 2) + 8 * (250 + 214)  # policy, reference, average; value, reward
    rollout = phase(phases, "rollout")
    # 8 rows x 7 columns, 2 x 4 bytes x 2 layers x 1 kv head x 2; prefill of 8 x 4 beside it
    assert rollout["cache"] == 8 * 7 * 32
    assert rollout["logits and transients"] == max(8 * 4 * 32 + 8 * 4 * 3, 8 * 10 * 24, 2 * 4 * 8 * 7 * 2 * 2)
    begins = phase(phases, "policy backward begins")
    assert begins["activations"] == 4 * 6 * 68  # one model's at a time
    assert begins["gradients"] == 0
    assert phase(phases, "value backward begins")["gradients"] == 1000
    assert phase(phases, "update")["gradients"] == 4 * (250 + 214)
    assert "pretraining text, backward begins" not in [one.name for one in phases]
    text = phase(
        m.ppo_phases(POLICY, VALUE, VALUE, setting(text_rows=3, text_micro_batch=3, text_tokens=5)),
        "pretraining text, backward begins",
    )
    assert text["activations"] == 3 * 5 * 68
    assert text["gradients"] == 4 * (250 + 214)


@pytest.mark.parametrize("name", ["unsharded", "sharded", "lora", "lora sharded"])
def test_more_rows_never_take_less(name):
    """While a step takes several passes; one pass alone is spared the gradients of those before it."""
    s = setting(name, gpus=2, sft_batch=8, minibatch=8)
    for phases in (lambda n: m.sft_phases(POLICY, s, n), lambda n: m.ppo_phases(POLICY, VALUE, VALUE, s, n)):
        totals = [m.peak(phases(rows)).total for rows in (1, 2)]
        assert totals[0] <= totals[1]


def test_operations_by_hand():
    # 3 rows of 5 tokens: 15 x (2 x 180 + 2 x 2 x 5 x 4); logits of 2 tokens a row: 2 x 3 x 2 x 40
    assert forward(SHAPE, 3, 5, 2) == 15 * (360 + 80) + 480
    cluster = Cluster(gpus=1, memory=1e9, flops=1e6, bandwidth=1e6, link=1e6, utilisation=0.5)
    sft = sft_effort(SHAPE, setting(), cluster, 2)
    once = forward(SHAPE, 16, 6, 6)
    assert sft.flops == 3 * once
    assert sft.steps == 4
    assert sft.compute_seconds == pytest.approx(3 * once / 5e5)
    assert sft.gather_seconds == 0
    again = sft_effort(SHAPE, setting(checkpointing=True), cluster, 2)
    assert again.flops == sft.flops
    assert again.compute_seconds == pytest.approx(4 * once / 5e5)


def test_drawing_waits_for_memory():
    cluster = Cluster(gpus=1, memory=1e9, flops=1e18, bandwidth=100.0, link=1e6, utilisation=0.5)
    all_at_once = ppo_effort(SHAPE, SHAPE, setting(), cluster, 4, 8)
    halves = ppo_effort(SHAPE, SHAPE, setting(), cluster, 4, 4)
    cache = f.cache_bytes(8, 6, 2, 1, 2)
    assert all_at_once.draw_seconds == pytest.approx(2 * (1000 + cache / 2) / 100)
    assert halves.draw_seconds == pytest.approx(2 * 2 * (1000 + cache / 4) / 100)
