"""The metrics tables of docs/ hold exactly the figures that the stages write: none missing, none invented."""

import json
import re
from pathlib import Path

import pytest
from small_stages import metrics, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVERY_RUN = {"step", "seconds"}
# Settings under which a stage writes every figure it can write.
FULL = {
    "pretrain": ("pretrain", {"steps": 2}),
    "sft": ("sft-mix", {"epochs": 1, "reward_model": "judge"}),
    "reward": ("reward", {"epochs": 1}),
    "ppo": ("ppo-ptx", {"steps": 1}),
}


def section(name: str) -> str:
    return re.split(r"^## ", (DOCS / f"{name}.md").read_text().partition("## Metrics\n")[2], flags=re.MULTILINE)[0]


def table(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("stage", FULL)
def test_the_page_of_a_stage_explains_what_it_writes(stage, workspace):
    name, changes = FULL[stage]
    folder = run(workspace, name, **changes)
    written = {key for line in metrics(workspace) for key in line} - EVERY_RUN
    explained = table(section(stage))
    assert sorted(explained) == sorted(written)
    card = json.loads((folder / "preceptor.json").read_text())["metrics"]
    for key in card.keys() - written - {"steps"}:
        assert f"`{key}`" in section(stage), f"docs/{stage}.md does not explain {key} of the model card"


def test_the_page_of_all_metrics_explains_what_every_run_writes():
    assert set(table((DOCS / "metrics.md").read_text())) >= EVERY_RUN
