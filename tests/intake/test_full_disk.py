"""A disk that is full: one line, exit code 2, nothing half written. The limit on file sizes stands for the disk."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor.store import Workspace
from preceptor.types import Prompt

ROOM = 300_000  # bytes that a file may have: more than the database, less than what is to be written

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` where no file can grow past ROOM. Python ignores SIGXFSZ, so that writing fails as on a full disk."""
    script = f"import sys\nfrom preceptor.errors import UserError\ntry:\n    {code}\nexcept UserError as error:\n    "
    script += "print(error, file=sys.stderr)\n    sys.exit(2)"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=no_room,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture
def filled(tmp_path) -> Path:
    workspace = Workspace.create(tmp_path / "w")
    noise = "".join(chr(97 + n * n % 26) for n in range(3000))
    workspace.store.add_prompts([Prompt.of(f"{n} {noise}", user_id=f"u{n}") for n in range(100)])
    workspace.store.close()
    return workspace.root


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("preceptor.db")
    }


OPEN = "from preceptor.store import Workspace; "
FREEZE = OPEN + "from preceptor.intake.releases import freeze; freeze(Workspace(sys.argv[1]), 'prompts')"
EXPORT = OPEN + (
    "from pathlib import Path; from preceptor.intake.export import export_own; "
    "export_own(Workspace(sys.argv[1]), 'prompts', Path(sys.argv[1], 'out.jsonl'))"
)
CORPUS = OPEN + (
    "from preceptor.intake.corpus import import_corpus; "
    "import_corpus(Workspace(sys.argv[1]), [sys.argv[2]], progress=False)"
)
PROMPTS = CORPUS.replace("corpus", "importing", 1).replace("import_corpus", "import_prompts")


@pytest.mark.parametrize("code", [FREEZE, EXPORT], ids=["release", "export"])
def test_writing_out(filled, code):
    before = files(filled)
    done = run(code, str(filled))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot be written: File too large; nothing was kept." in done.stderr
    assert files(filled) == before
    workspace = Workspace(filled)
    assert workspace.store.releases() == []
    workspace.store.close()


@pytest.mark.parametrize("code", [CORPUS, PROMPTS], ids=["corpus", "prompts"])
def test_reading_in(filled, tmp_path, code):
    text = os.urandom(800_000).hex()  # does not compress below half
    rows = tmp_path / "rows.jsonl"
    pieces = [text[start : start + 2000] for start in range(0, len(text), 2000)]
    key = "text" if code == CORPUS else "prompt"
    rows.write_text("".join(json.dumps({key: piece}) + "\n" for piece in pieces))
    before = files(filled)
    done = run(code, str(filled), str(rows))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot be written: " in done.stderr
    assert files(filled) == before
    workspace = Workspace(filled)
    assert workspace.store.corpora() == []
    assert workspace.store.counts()["prompts"] == 100
    workspace.store.close()


def test_the_database_itself(filled):
    add = OPEN + (
        "from preceptor.types import Prompt; Workspace(sys.argv[1]).store.add_prompts("
        "[Prompt.of('x' * 4000 + str(n)) for n in range(500)])"
    )
    done = run(add, str(filled))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "the database cannot be written: " in done.stderr
    workspace = Workspace(filled)
    assert workspace.store.counts()["prompts"] == 100
    workspace.store.close()
