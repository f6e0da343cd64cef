"""Workers that divide each layer's matrices end where one process does, and go on from each other's checkpoints."""

import json

import pytest
from small_stages import metrics, run
from test_divided import two
from test_ranks import SMALL, close, near, several
from transformers import Qwen3Config, Qwen3ForCausalLM

from preceptor.config import SftConfig
from preceptor.errors import UserError
from preceptor.models.load import scalar_from_policy
from preceptor.models.shard import Layout
from preceptor.training import ranks
from preceptor.training.launch import train
from tiny_models import VOCABULARY, make_model, make_tokenizer, save

# Fewer steps than those of test_ranks.py: tiny tensors that two dimensions divide take long to send.
FEW = {
    "sft-mix": {"epochs": 1},
    "reward": {"epochs": 1},
    "ppo-ptx": {"steps": 3},
}
NORMS = ("gradient_norm", "policy_gradient_norm", "value_gradient_norm")


def put_base(workspace, architecture: str, tied: bool) -> None:
    """Another base and another judge in the workspace."""
    tokenizer = make_tokenizer()
    save(workspace.model("base"), architecture, tokenizer, tied=tied, context=512)
    scalar_from_policy(workspace.model("base"), seed=3).save_pretrained(workspace.model("judge"))


def same_norms(one: list[dict], other: list[dict]) -> None:
    names = [name for name in NORMS if name in one[0]]
    assert names
    for a, b in zip(one, other, strict=True):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=1e-4), (name, a["step"])


@pytest.mark.parametrize(
    ("architecture", "tied", "processes"),
    [
        ("llama", True, 2),
        pytest.param("gpt-neox", False, 2, marks=pytest.mark.slow),
        ("qwen2", False, 2),
        pytest.param("qwen2", False, 4, marks=pytest.mark.slow),
        pytest.param("gpt-neox", False, 4, marks=pytest.mark.slow),
    ],
)
def test_teams_of_two_make_the_loss_curve_of_one_process(architecture, tied, processes, workspace, another):
    for each in (workspace, another):
        put_base(each, architecture, tied)
    settings = {stage: {"output": stage, **SMALL[stage], **few} for stage, few in FEW.items()}
    if processes > 2:  # ranks of one team drop the same activations as one process; another team draws its own
        settings["sft-mix"]["dropout"] = 0.0
    jobs = [[stage, {**changes, "tensor_parallel": 2}] for stage, changes in settings.items()]
    assert not several(workspace, jobs, processes)
    for stage, changes in settings.items():
        whole = run(another, stage, **changes)
        close(metrics(workspace, stage), metrics(another, stage))
        same_norms(metrics(workspace, stage), metrics(another, stage))
        # GPT-NeoX: the bias of a key that no position turns shifts all of a row's attention alike, the last norm's bias
        # all of a reward model's scores. Their gradient is rounding, of which Adam makes whole steps.
        last = ("final_layer_norm.bias",) if stage == "reward" else ()
        near(workspace.model(stage), whole, without=("query_key_value.bias", *last))


TEAMS = {"one": (1, 1), "two": (2, 1), "team": (2, 2), "teams": (4, 2)}  # processes, of which so many make a team


@pytest.mark.parametrize(
    "ways",
    [
        [("team", "one"), ("one", "team")],
        pytest.param([("team", "two"), ("two", "team"), ("team", "team")], marks=pytest.mark.slow),
        pytest.param([("teams", "one"), ("teams", "two"), ("team", "teams")], marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_goes_from_any_layout_to_any_other(ways, workspace, another):
    stage, changes = "ppo-ptx", {**SMALL["ppo-ptx"], "steps": 4}
    for part, more in ((0, {"max_steps": 2}), (1, {})):
        for layout in {way[part] for way in ways}:
            processes, tensor = TEAMS[layout]
            mine = [{**changes, **more, "output": "-".join(way)} for way in ways if way[part] == layout]
            if processes > 1:
                jobs = [[stage, {**each, "tensor_parallel": tensor}] for each in mine]
                assert not several(workspace, jobs, processes)
                continue
            for each in mine:
                run(workspace, stage, **each)
    whole = run(another, stage, **changes)
    for way in ways:
        name = "-".join(way)
        assert len(metrics(workspace, name)) == 4
        close(metrics(workspace, name), metrics(another))
        near(workspace.model(name), whole)


def test_each_rank_of_a_team_reads_its_part_and_together_they_have_the_whole(tmp_path):
    """Of every architecture with a plan; of one whose heads have norms of their own; of an odd vocabulary."""
    for name in ("llama", "qwen2", "gpt-neox"):
        make_model(name, tied=name == "llama").save_pretrained(tmp_path / name / "policy")
        make_model(name).save_pretrained(tmp_path / name / "scalar")
    config = make_model("qwen2").config.to_dict()
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    sizes = {name: config[name] for name in kept} | {"head_dim": 8, "initializer_range": 0.2}
    for name, vocabulary in (("head-norms", VOCABULARY), ("odd", VOCABULARY + 1)):
        model = Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, pad_token_id=1, **sizes))
        model.save_pretrained(tmp_path / name / "policy")
    # What a plan does not name, each rank holds whole: norms, GPT-NeoX's embedding, embedding and head of odd size.
    own = {"llama": 0.52, "qwen2": 0.52, "head-norms": 0.52, "gpt-neox": 0.75, "odd": 0.8}
    said = two([["compare", str(tmp_path / name), 2] for name in own])
    assert len(said) == 2 * len(own)
    for place, name in enumerate(own):
        for found in said[2 * place : 2 * place + 2]:
            assert found.pop("said") == []
            for role, one in found.items():
                assert one["same"], (name, role)
                assert one["kernels"], (name, role)
                assert one["gap"] < 5e-6, (name, role)
                assert one["gradient_gap"] < 1e-5, (name, role)
                assert 0.5 <= one["own"] / one["whole"] < own[name], (name, role)


def test_what_cannot_be_divided_is_refused_in_one_line(workspace):
    tokenizer = make_tokenizer()
    save(workspace.model("odd"), "llama", tokenizer)
    config = workspace.model("odd") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_key_value_heads": 1}))
    wrong = [
        ("gpt2", "base-gpt2", "transformers has no tensor parallel plan for GPT2LMHeadModel; use --tensor-parallel 1"),
        ("heads", "odd", "tensor_parallel 2 does not divide the 1 num_key_value_heads of the model"),
    ]
    jobs = [["sft", {"output": name, "model": model, "tensor_parallel": 2}] for name, model, _ in wrong]
    said = several(workspace, jobs).splitlines()
    assert sorted(said) == sorted(f"rank {rank}: {words}" for rank in (0, 1) for _, _, words in wrong)
    with pytest.raises(UserError, match="tensor_parallel 2 does not divide the 3 workers"):
        train(workspace, SftConfig(model="base", workers=3, tensor_parallel=2))
    with pytest.raises(UserError, match="tensor_parallel 2 does not divide the 1 workers"):
        train(workspace, SftConfig(model="base", tensor_parallel=2))


def test_a_team_takes_the_same_rows_and_one_of_it_speaks(monkeypatch):
    monkeypatch.setattr(Layout, "tensor", 2)
    monkeypatch.setattr(ranks, "size", lambda: 6)
    taken, speakers = [], []
    for rank in range(6):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        taken.append(ranks.share([10, 11, 12, 13, 14]))
        speakers += [rank] if ranks.speaks() else []
    assert taken == [([10, 13], 1.0)] * 2 + [([11, 14], 1.0)] * 2 + [([12], 1.0)] * 2
    assert speakers == [0, 2, 4]
