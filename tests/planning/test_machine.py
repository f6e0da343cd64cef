"""What a calibration knows of a machine, on a made-up one whose figures can be added up by hand."""

import json
import math
from dataclasses import replace

import pytest
from test_memory import SHAPE, WORK, setting

from preceptor.errors import UserError
from preceptor.planning import memory as m
from preceptor.planning.activations import Activations
from preceptor.planning.machine import (
    CALL,
    COSTS,
    Machine,
    Nominal,
    Rates,
    add,
    default_path,
    fit_memory,
    fit_times,
    part_counts,
    stage_seconds,
)
from preceptor.planning.options import PlanOptions
from preceptor.planning.plan import plan_of
from preceptor.planning.table import plan_lines
from preceptor.planning.work import STAGES
from tiny_models import make_config

FLAT = Rates([64, 1024], [1e9, 1e9], [1e9, 1e9])
LEFT = Activations(per_layer=30.0, base=8.0, transient=5.0, quiet=3.0)
POLICY = m.Model(SHAPE, LEFT, LEFT)
MACHINE = Machine(
    date="2026-01-02T03:04:05+00:00",
    hardware="a made-up processor",
    device="cpu",
    threads=1,
    memory=8e9,
    bandwidth=1e9,
    rates={"fp32": FLAT, "bf16": FLAT},
    times={"fp32": dict.fromkeys(COSTS, 2.0), "bf16": dict.fromkeys(COSTS, 1.0)},
    base=3e8,
    first=1e8,
    held={f"{stage} {precision}": 1.25 for stage in STAGES for precision in ("fp32", "bf16")},
    misses={"fp32": 0.05, "bf16": 0.08},
)


def test_rates_lie_between_those_measured():
    rates = Rates([64, 256], [1e9, 4e9], [16e9, 16e9])
    assert rates.at(128, 16) == pytest.approx(2e9)  # half-way in the logarithms
    assert rates.at(128, 1) == pytest.approx(2e9)  # fewer rows than were tried: as with the fewest
    assert rates.at(10, 10_000) == pytest.approx(16e9)
    assert rates.at(1000, math.sqrt(16 * 512)) == pytest.approx(8e9)
    assert rates.best == 16e9


def test_a_training_pass_by_hand():
    """3 rows of 5 tokens, logits of all: 2 layers with 90 numbers in matrices each, width 4, vocabulary 10."""
    counts = Nominal(FLAT, 1e9).passes(POLICY, 2, 3, 5, 5, training=True)
    assert counts["products"] == pytest.approx(2 * 3 * (2 * 15 * 180 + 2 * 15 * 40) / 1e9)
    assert counts["attention"] == pytest.approx(2 * 3 * 2 * 15 * 5 * 2 * 4 / 1e9)
    assert counts["elements"] == pytest.approx(2 * 3 * 15 * 68 / 1e9)
    assert counts["logits"] == pytest.approx(2 * 3 * 15 * 10 * 4 / 1e9)
    assert counts["calls"] == pytest.approx(2 * 3 * 3 * CALL)
    assert counts["weights"] == pytest.approx(2 * 3 * 4 * 250 / 1e9)
    assert counts["drops"] == 0
    quiet = Nominal(FLAT, 1e9).passes(POLICY, 2, 3, 5, 5, training=False)
    assert quiet["products"] == pytest.approx(counts["products"] / 3)
    dropped = Nominal(FLAT, 1e9).passes(POLICY, 1, 3, 5, 0, training=True, dropout=True)
    assert dropped["drops"] == pytest.approx(3 * 15 * 4 * 5 * 4 / 1e9)  # after embeddings, attention and MLP


def test_logits_that_do_not_fit_a_chunk_are_made_again():
    wide = m.Model(replace(SHAPE, vocabulary=m.LOGIT_CHUNK // 10), LEFT, LEFT)
    nominal = Nominal(FLAT, 1e9)
    few, many = (nominal.passes(wide, 1, 1, n, n, training=True)["logits"] for n in (10, 11))
    assert many / 11 == pytest.approx(few / 10 * 4 / 3)


def test_a_step_is_its_passes_and_an_update():
    """4 demonstrations, 2 per pass; over 2 devices one pass each."""
    models, nominal = {"sft": POLICY}, Nominal(FLAT, 1e9)
    one = nominal.passes(POLICY, 1, 2, 6, 6, training=True)
    update = {"updates": 40 * 250 / 1e9}
    step = part_counts("sft", models, WORK, nominal)["step"]
    assert step == pytest.approx(add(one, one, update))
    assert part_counts("sft", models, WORK, nominal, gpus=2)["step"] == pytest.approx(add(one, update))
    odd = part_counts("sft", models, replace(WORK, sft_batch=5), nominal)["step"]
    assert odd == pytest.approx(add(one, one, nominal.passes(POLICY, 1, 1, 6, 6, training=True), update))


def test_a_stage_is_its_steps():
    """8 demonstrations in steps of 4, 2 epochs: 4 steps; every cost takes twice its nominal seconds."""
    step = part_counts("sft", {"sft": POLICY}, WORK, Nominal(FLAT, 1e9))["step"]
    learning, drawing = stage_seconds("sft", {"sft": POLICY}, setting(), MACHINE, 2)
    assert learning == pytest.approx(4 * 2 * sum(step.values()))
    assert drawing == 0
    again, _ = stage_seconds("sft", {"sft": POLICY}, setting(checkpointing=True), MACHINE, 2)
    assert again == pytest.approx(learning * 4 / 3)


def test_an_iteration_draws_token_by_token():
    value = m.Model(SHAPE, LEFT, LEFT, scalar=True)
    parts = part_counts("ppo", {"policy": POLICY, "value": value}, WORK, Nominal(FLAT, 1e9))
    assert parts["act"]["decoding"] == pytest.approx(2 * 3 * CALL)
    cache = 2 * 4 * 8 * (4 + 1) * 2 * 1 * 2  # 8 rows, half-way through the answer
    assert parts["act"]["drawing"] == pytest.approx(2 * (4 * (180 + 40) + cache + 8 * 10 * 24) / 1e9)
    assert parts["learn"]["updates"] == pytest.approx(2 * (52 * 250 + 40 * 214) / 1e9)  # 2 steps; averaged policy


def test_fits_find_what_made_the_figures():
    true = {cost: 1.0 + place / 3 for place, cost in enumerate(COSTS)}
    rows = [{cost: 1.0 + ((a + 2) * (b + 3) % 7) * 4.0 for b, cost in enumerate(COSTS)} for a in range(40)]
    rows += [{cost: 50.0} for cost in COSTS]
    observed = [(row, sum(true[cost] * value for cost, value in row.items())) for row in rows]
    times, miss = fit_times(observed)
    assert times == pytest.approx(true, rel=0.02)
    assert miss < 0.01
    taken = [(kind, 1e6 * x, 7e7 + held * 1e6 * x) for kind, held in (("a", 1.2), ("b", 1.5)) for x in (10, 50, 300)]
    first, held = fit_memory(taken)
    assert first == pytest.approx(7e7)
    assert held == pytest.approx({"a": 1.2, "b": 1.5})


def test_the_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "machine.json"
    MACHINE.write(path)
    assert Machine.read(path) == MACHINE
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(UserError, match="preceptor plan --calibrate"):
        Machine.read(tmp_path / "none.json")
    for wrong in ("[]", "{", json.dumps({"format": 99}), json.dumps({"format": 1, "date": "x"})):
        path.write_text(wrong)
        with pytest.raises(UserError, match="no calibration of this version"):
            Machine.read(path)


def test_a_plan_on_a_calibrated_machine_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make_config("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="there is no calibration"):
        plan_of(PlanOptions(model=str(tmp_path / "model"), machine="here"))
    MACHINE.write(default_path())
    plan = plan_of(PlanOptions(model=str(tmp_path / "model"), machine="here"))
    text = "\n".join(plan_lines(plan))
    assert "calibrated 2026-01-02 on a made-up processor: 8 GB" in text
    assert "utilisation" not in text
    assert plan.cluster.memory == 8e9
    assert plan.cluster.room == pytest.approx((8e9 * 0.94 - 4e8) / 1.25)
    slower = replace(MACHINE, times={name: dict.fromkeys(COSTS, 4.0) for name in MACHINE.times})
    slower.write(tmp_path / "slow.json")
    twice = plan_of(PlanOptions(model=str(tmp_path / "model"), machine=str(tmp_path / "slow.json")))
    for one, other in zip(plan.stages, twice.stages):
        assert other.effort.seconds == pytest.approx(2 * one.effort.seconds)
    assert "calibrated 2026" not in "\n".join(plan_lines(plan_of(PlanOptions(model=str(tmp_path / "model")))))


def test_attention_weights_are_kept_in_bf16_on_a_processor():
    half = replace(WORK, precision="bf16")
    gpu, cpu = (m.Setting(half, m.LAYOUTS[0], 1, device=device) for device in ("cuda", "cpu"))
    assert cpu.saved(POLICY, 3, 5) - gpu.saved(POLICY, 3, 5) == 2 * 2 * 3 * 2 * 5 * 5  # layers, bytes, rows, heads
    assert cpu.saved(POLICY, 1, 600) == gpu.saved(POLICY, 1, 600)
