"""The sharded modules themselves, without weights."""

import pytest

from preceptor.errors import UserError
from preceptor.planning.dry_run import dry_run
from preceptor.planning.options import PlanOptions
from preceptor.planning.plan import plan_of
from preceptor.planning.shape import measure_shape
from preceptor.planning.table import plan_lines
from tiny_models import ARCHITECTURES, make_config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scalar", [False, True])
def test_two_ranks_hold_half_each(architecture, scalar):
    config = make_config(architecture)
    shape = measure_shape(config, "x")
    found = dry_run(config, shape, 2, scalar=scalar)
    whole = shape.scalar_parameters if scalar else shape.parameters
    assert found.parameters == whole
    # every tensor has an even number of rows, but the scalar head, whose one row is rank 0's
    assert 2 * found.largest == whole + (32 if scalar else 0)
    assert found.bytes == 4 * found.largest
    assert found.layer == shape.layer_parameters
    assert found.mismatches == []


def test_uneven_parts_are_said():
    """Norms of 32 numbers over 48 ranks: rank 0 has one of them, more than its 32 / 48; matrices likewise."""
    config = make_config("llama")
    found = dry_run(config, measure_shape(config, "x"), 48, scalar=False)
    assert found.bytes > found.planned["bytes"]
    (said,) = found.mismatches
    assert said.startswith(f"bytes: {found.bytes:,} in the sharded model")
    assert "differs from the plan" in "\n".join(found.lines())


def test_a_plan_can_try_it(tmp_path):
    import torch.distributed as dist

    make_config("llama").save_pretrained(tmp_path)
    plan = plan_of(PlanOptions(model=str(tmp_path), gpus=2, dry_run=True))
    assert [one["role"] for one in plan.to_json()["dry_run"]] == ["policy", "reward and value model"]
    assert "dry run, policy:" in "\n".join(plan_lines(plan))
    assert not dist.is_initialized()
    with pytest.raises(UserError, match="--dry-run divides the model"):
        plan_of(PlanOptions(model=str(tmp_path), dry_run=True))
