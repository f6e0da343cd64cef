"""What a GPU needs of the training code, as far as it can be seen on a machine without one."""

from types import SimpleNamespace

import torch
from small_stages import run


def test_a_checkpoint_keeps_the_generators_of_the_gpus(workspace, monkeypatch):
    """Dropout on a GPU is drawn from that GPU's generator: its state is saved, and set again at the next start."""
    states = [torch.arange(16, dtype=torch.uint8), torch.arange(16, 32, dtype=torch.uint8)]
    found = []
    monkeypatch.setattr("preceptor.training.sft.load_policy", lambda *a, **k: _on_cpu(*a, **k))
    run(workspace, "sft", max_steps=1)  # written on a machine without a GPU
    gpus = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: len(states),
        get_rng_state_all=lambda: states,
        set_rng_state_all=found.append,
    )
    monkeypatch.setattr("preceptor.training.checkpoints.cuda", gpus)
    run(workspace, "sft", max_steps=2)
    run(workspace, "sft", max_steps=3)
    assert found[0] == []
    assert [state.tolist() for state in found[1]] == [state.tolist() for state in states]


def _on_cpu(source, device=None, **options):
    from preceptor.models.load import load_policy

    return load_policy(source, torch.device("cpu"), **options)
