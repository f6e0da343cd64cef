"""Models out: a Hugging Face folder, whole or not at all, with a card that says what it was made from."""

import ctypes
import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel

from preceptor import __version__, faults
from preceptor.errors import UserError
from preceptor.models.adapters import Adapter
from preceptor.types import ModelCard

CARD = "preceptor.json"


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer,
    card: ModelCard,
    adapter: Adapter | None = None,
    *,
    merged: bool = True,
) -> Path:
    """Write weights (safetensors), config, tokenizer and card beside `folder`, then put them in its place.

    An adapter goes into `folder/adapter`; with `merged` off it goes into `folder` itself and stands for the weights.
    A reader, and a process that starts after this one was killed, finds the old model or the new one, whole.
    """
    recover_model(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        if merged:
            model.save_pretrained(new)
        else:
            model.config.save_pretrained(new)
        if adapter is not None:
            adapter.write(new / "adapter" if merged else new)
        tokenizer.save_pretrained(new)
        (new / CARD).write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False, default=str) + "\n")
        (new / "README.md").write_text(_readme(card))
        for path in (*new.rglob("*"), new):
            _sync(path)
        faults.at("model")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"cannot save the model {folder}: {error}; nothing was changed") from error
    if folder.exists() and _exchange(new, folder):
        old = new
    else:
        old = folder.with_name(f".{folder.name}.old")
        if folder.exists():
            folder.rename(old)
        faults.at("moved")
        new.rename(folder)
    faults.at("placed")
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def recover_model(folder: Path) -> None:
    """Undo what a process left that was killed between moving the old model away and the new one into its place."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system cannot (only Linux can, since 3.15)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def model_hash(folder: Path | str) -> str:
    """SHA-256 over the names and bytes of the folder's safetensors files, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def lineage(folder: Path | str) -> str:
    """`name@hash` of a model folder, for the card of its child; a hub name as it is."""
    if not Path(folder).is_dir():
        return str(folder)
    return f"{Path(folder).name}@{model_hash(folder)[:16]}"


def read_card(folder: Path | str) -> ModelCard | None:
    """The card of a model folder; None for a folder that Preceptor did not make."""
    path = Path(folder) / CARD
    return ModelCard(**json.loads(path.read_text())) if path.is_file() else None


def count_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _readme(card: ModelCard) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "tags: [preceptor, rlhf]",
        "---",
        f"# {card.name}",
        "",
        f"Made by the stage `{card.stage}` of Preceptor {__version__} (transformers {transformers.__version__}), "
        f"seed {card.seed}, {card.parameters:,} parameters.",
        "",
        "| made from | |",
        "|---|---|",
        *(f"| {role} | `{parent}` |" for role, parent in card.parents.items()),
        *(f"| data | `{name}` sha256 `{digest[:16]}` |" for name, digest in card.releases.items()),
        "",
        "| measured at the end | |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in card.metrics.items()),
        "",
    ]
    return "\n".join(lines)
