"""Rules about the files themselves: their size, their names, and what must not stand in them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {".py", ".md", ".toml", ".txt", ".html", ".css", ".js", ".mako", ".yaml", ".sh", ""}


def tracked() -> list[Path]:
    """The files under version control, or all but the ignored folders where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    skipped = {".venv", "demo", "build", "dist", ".git"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)]


def ours() -> list[Path]:
    """Files that people of this project wrote."""
    return [
        path
        for path in tracked()
        if path.suffix in WRITTEN and ".min." not in path.name and "vendor" not in path.parts and path.name != "LICENSE"
    ]


def test_no_source_file_has_more_than_500_lines():
    long = {
        str(path.relative_to(ROOT)): count
        for path in ours()
        if path.suffix in (".py", ".html", ".css", ".js") and (count := len(path.read_text().splitlines())) > 500
    }
    assert not long


def test_no_module_is_a_drawer_for_everything():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [str(path) for path in tracked() if path.suffix == ".py" and drawers & {path.stem, *path.parts}] == []


def test_nothing_names_the_place_where_it_was_written():
    """No absolute path of this checkout or of its owner, no address of a package index."""
    home = str(Path.home())
    traces = [str(ROOT), *([home + "/"] if home not in ("/", "/root") else []), "/root/", "index-url", "--find-links"]
    found = [
        f"{path.relative_to(ROOT)}: {trace}"
        for path in ours()
        if path != Path(__file__)
        for trace in traces
        if trace in path.read_text()
    ]
    assert not found


def test_constraints_are_plain_versions_of_what_the_project_asks_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [
        *project["dependencies"],
        *(name for extra in extras if extra not in ("harness", "ray", "vllm") for name in extras[extra]),
    ]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower() for name in asked} - {"preceptor"}
    assert names - pinned == set()


@pytest.mark.parametrize("name", ["ray", "vllm"])
def test_development_does_not_need_the_cluster(name):
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    assert not any(name in re.split(r"\W+", line) for line in dev)


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
