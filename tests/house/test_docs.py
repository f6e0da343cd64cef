"""The documentation is held to the code: names exist, links lead somewhere, commands are commands."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "benchmarks", "docs")
SOURCES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]

page = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def names_in(path: Path) -> set[str]:
    """Functions, classes, their methods and module constants of a source file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{part.name}" for part in inner}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@page
def test_functions_named_in_the_docs_exist(path):
    """`training/ppo.py:assess`, or a file alone; the path may start anywhere."""
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", path.read_text()):
        places = [place for place in SOURCES if f"/{place}".endswith(f"/{file}")]
        if not any(not name or name in names_in(ROOT / place) for place in places):
            missing.append(f"{file}:{name}" if name else file)
    assert not missing


@pytest.mark.parametrize("name", ["pretrain", "sft", "sample", "reward", "ppo"])
def test_a_stage_page_has_all_its_parts(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[1:] == ["Metrics", "The paper and ours", "Traps"]
    assert len(re.findall(r"`[\w/]+\.py:[\w.]+`", text)) >= 3


@page
def test_links_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file) if file else path
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", goal.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


def test_every_page_is_linked_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    assert [path.name for path in PAGES if path.name != "index.md" and f"]({path.name})" not in index] == []


def test_the_command_line_page_is_what_the_program_says():
    # In a process of its own: the usage lines name the program by how the process was started.
    code = "import sys; sys.dont_write_bytecode = True; import make_cli; sys.stdout.write(make_cli.page())"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout, "docs/cli.md is stale; run: make docs"


def blocks(text: str) -> list[str]:
    """Command lines of the fenced blocks of a page, comments taken off."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines() if line.startswith(("preceptor ", "make "))]
    return [" ".join(shlex.split(line, comments=True)) for line in lines]


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", [path for path in TEXTS if path.name != "cli.md"], ids=lambda path: path.name)
def test_commands_in_blocks_exist(path):
    for line in blocks(path.read_text()):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets(), line
            continue
        named = next((key for key in (tuple(words[1:3]), tuple(words[1:2])) if key in COMMANDS), None)
        assert named is not None, line
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if options:
            known = {name for argument in COMMANDS[named].assemble_argument_collection() for name in argument.names}
            assert options <= known, line


def test_the_readme_shows_commands():
    shown = blocks((ROOT / "README.md").read_text())
    assert {"make demo", "make test"} <= set(shown)
    assert len([line for line in shown if line.startswith("preceptor")]) >= 10


def test_an_unreleased_version_stands_in_the_changelog():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in (ROOT / "CHANGELOG.md").read_text()
