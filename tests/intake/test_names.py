"""Presidio beside the patterns: used when it is asked for, and a clear word where it is not installed."""

import json
import sys

import pytest

from preceptor.config import check_settings
from preceptor.errors import UserError
from preceptor.intake.names import presidio_finder
from preceptor.intake.pii import Finding, find, mask
from preceptor.intake.releases import freeze, read_release
from preceptor.store import Workspace
from preceptor.types import Prompt


def names(text: str) -> list[Finding]:
    start = text.find("Ana Silva")
    return [] if start < 0 else [Finding("person", start, start + 9)]


def test_further_findings_stand_beside_the_patterns_and_never_overlap_them():
    text = "Ana Silva, ana@example.org"
    assert [finding.kind for finding in find(text, names)] == ["person", "email"]
    assert mask(text, more=names) == "[person], [email]"
    whole = lambda text: [Finding("location", 0, len(text))]  # noqa: E731
    assert mask(text, more=whole) == "Ana Silva, [email]"


def test_without_presidio_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(UserError, match=r"Presidio is not installed; run: pip install 'preceptor\[presidio\]'"):
        presidio_finder("en_core_web_lg")
    workspace = Workspace.create(tmp_path / "w", 'presidio = "en_core_web_lg"\n')
    workspace.store.add_prompts([Prompt.of("Write to Ana Silva.")])
    with pytest.raises(UserError, match="Presidio is not installed"):
        freeze(workspace, "prompts")
    assert freeze(workspace, "prompts", mask_personal_data=False).rows == 1
    workspace.store.close()


def test_with_presidio_names_are_masked_in_training_text(tmp_path):
    pytest.importorskip("presidio_analyzer", reason="Presidio is not installed")
    import spacy

    language = spacy.blank("en")  # a model that knows one name stands for one that knows many
    ruler = language.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ana Silva"}, {"label": "GPE", "pattern": "Porto"}])
    language.to_disk(tmp_path / "model")
    with pytest.raises(UserError, match="there is no such spaCy model here"):
        presidio_finder("no_such_model")
    workspace = Workspace.create(tmp_path / "w", f"presidio = {json.dumps(str(tmp_path / 'model'))}\n")
    text = "Write to Ana Silva in Porto, ana@example.org, about the chisel."
    workspace.store.add_prompts([Prompt.of(text)])
    (row,) = read_release(freeze(workspace, "prompts"))
    assert row["messages"][0]["content"] == "Write to [person] in [location], [email], about the chisel."
    (kept,) = workspace.store.prompts()
    assert kept.text == text
    workspace.store.close()


def test_the_settings_are_known():
    assert check_settings({"name": "hallam", "presidio": "en_core_web_lg"}, "preceptor.toml") == {}
