"""What the workspace's models were made from, and how their training went, for the report."""

import json
from pathlib import Path

from preceptor.report.data import Ancestor, Series, Training
from preceptor.store import Workspace

# metric of metrics.jsonl -> what the report calls it and its unit
CURVES = {
    "pretrain": {"loss": ("loss", "nats per token")},
    "sft": {"loss": ("loss", "nats per token"), "pretraining_loss": ("pretraining loss", "nats per token")},
    "reward": {"accuracy": ("accuracy", "share"), "loss": ("loss", "nats per comparison")},
    "ppo": {
        "reward_model_score": ("reward model score", "reward-model points"),
        "kl_to_reference": ("KL to the reference", "nats per answer"),
        "answer_tokens": ("answer length", "tokens"),
        "ptx_loss": ("pretraining loss", "nats per token"),
    },
}
MOST_POINTS = 200  # of a curve; longer ones are averaged over equal stretches


def lineage(workspace: Workspace) -> list[Ancestor]:
    """Releases and corpora first, then models by age."""
    found = [
        Ancestor(name=c["name"], kind="corpus", sha256=c["sha256"], note=f"{c['documents']:,} documents")
        for c in workspace.store.corpora()
    ]
    found += [
        Ancestor(name=r.name, kind=f"release of {r.kind}", sha256=r.sha256, note=f"{r.rows:,} rows")
        for r in workspace.store.releases()
    ]
    for name in workspace.models():
        path = workspace.model(name) / "preceptor.json"
        if not path.is_file():
            continue
        card = json.loads(path.read_text())
        found.append(
            Ancestor(
                name=name,
                kind=card["stage"],
                sha256=_weights_hash(workspace.model(name)),
                parents={role: parent.split("@")[0] for role, parent in card["parents"].items()},
                releases=card["releases"],
                parameters=card["parameters"],
                seed=card["seed"],
            )
        )
    return found


def _weights_hash(folder: Path) -> str:
    """As `models.save.model_hash`, which a process without torch cannot import."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def training_curves(workspace: Workspace) -> list[Training]:
    """The curves of every run of the workspace, in order of their start."""
    found = []
    for run in sorted((workspace.root / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        stage = json.loads(run.read_text())["stage"]
        lines = [json.loads(line) for line in run.with_name("metrics.jsonl").read_text().splitlines()]
        if not lines:
            continue
        width = -(-len(lines) // MOST_POINTS)
        groups = [lines[start : start + width] for start in range(0, len(lines), width)]
        series = [
            Series(name=shown, unit=unit, values=[sum(line[key] for line in g) / len(g) for g in groups])
            for key, (shown, unit) in CURVES[stage].items()
            if all(key in line for line in lines)
        ]
        found.append(Training(stage=stage, model=run.parent.name, steps=[g[-1]["step"] for g in groups], series=series))
    return found
