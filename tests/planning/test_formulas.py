"""Every formula against numbers worked out by hand."""

import pytest

from preceptor.planning import formulas as f


def test_what_stays():
    assert f.weight_bytes(10) == 40
    assert f.weight_bytes(10, ranks=4) == 10
    assert f.gradient_bytes(10, ranks=2) == 20
    assert f.adam_bytes(10) == 80  # two moments of 4 bytes
    assert f.adam_bytes(10, ranks=8) == 10


def test_16_bytes_per_trained_parameter_make_43_65_gb_of_175b_on_64():
    """174,604,259,328 x 16 / 64 = 43,651,064,832."""
    n = 174_604_259_328
    assert f.weight_bytes(n, 64) + f.gradient_bytes(n, 64) + f.adam_bytes(n, 64) == 43_651_064_832


def test_lora():
    # one matrix 3 x 5 at rank 2: B is 3 x 2, A is 2 x 5
    assert f.lora_parameters(3 + 5, 2) == 6 + 10


def test_gathered():
    assert f.gathered_bytes(7, 5, 2, training=False) == 2 * (7 + 5 + 5)
    assert f.gathered_bytes(7, 5, 2, training=True) == 2 * (7 + 5 + 5 + 5)


def test_activations():
    # 2 rows of 3 tokens are 6; 4 layers of 10 bytes and 7 outside
    assert f.saved_bytes(2, 3, 4, 10, 7) == 6 * 47
    # checkpointed: each layer's input of width 5 in fp32, one layer's 10, and 7 outside
    assert f.checkpointed_bytes(2, 3, 4, 5, 10, 7) == 6 * (4 * 20 + 10 + 7)
    assert f.backward_bytes(100, 5, 9) == 109
    assert f.backward_bytes(100, 9, 5) == 109


def test_logits_come_in_chunks():
    assert f.logit_bytes(3, 10, 100) == f.LOGIT_COPIES * 4 * 3 * 10
    assert f.logit_bytes(30, 10, 100) == f.LOGIT_COPIES * 4 * 10 * 10
    assert f.logit_bytes(30, 1000, 100) == f.LOGIT_COPIES * 4 * 1 * 1000  # a row at least
    assert f.draw_bytes(2, 10) == 20 * (4 + 4 + 8 + 8)


def test_cache():
    # keys and values, 2 rows of 3 columns, 4 layers, 5 heads of 6: 2 * 2 * 3 * 4 * 5 * 6 = 1440 numbers
    assert f.cache_bytes(2, 3, 4, 5, 6) == 1440 * 4


def test_operations():
    # 10 tokens in rows of 5: 2 * 100 for the matrices, 2 * 3 layers * 5 * 4 for attention
    assert f.forward_flops(10, 5, 100, 3, 4) == 10 * (200 + 120)
    assert f.training_flops(7) == 21
    assert f.training_flops(7, checkpointing=True) == 28
    assert f.training_flops(7, lora=True) == 14
    assert f.training_flops(7, lora=True, checkpointing=True) == 21
    assert f.petaflop_s_days(8.64e19) == 1


def test_times():
    assert f.compute_seconds(1000, 5, 10, 0.5) == 40
    assert f.decode_seconds(weights=100, cache=40, steps=3, bandwidth=60) == 6
    assert f.gather_seconds(100, 2, 3, gpus=4, link=50) == pytest.approx(3 * 2 * 100 * 0.75 / 50)
    assert f.gather_seconds(100, 2, 3, gpus=1, link=50) == 0
