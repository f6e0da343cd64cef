"""The wheel, in an empty environment with the labelling extra alone, serves every page and has no torch."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WALK = """
import importlib.util, sys, tempfile
from pathlib import Path
assert importlib.util.find_spec("torch") is None
from fastapi.testclient import TestClient
sys.path.insert(0, sys.argv[1])
from persons import attack_a_model, join, make_workspace, rank_next, rank_queue
from preceptor.labelling.app import create_app
from preceptor.store.queues import KINDS, Queue
import preceptor
assert "site-packages" in preceptor.__file__, preceptor.__file__
app = create_app(make_workspace(Path(tempfile.mkdtemp()) / "ws"), writes_per_minute=10**6)
rank_queue(app, id="w_rank", overlap_share=1.0)
attack_a_model(app.state.workspace.store)
more = {"compare": {"models": ("sft", "ppo")}, "toxicity": {"k_min": 1}, "red-team": {"k_min": 1}}
for kind in set(KINDS) - {"rank"}:
    app.state.queues.create(Queue(id=f"w_{kind}", name=kind, kind=kind, rubric="training-1", **more.get(kind, {})))
made = app.state.screenings.create("June", topics=["law"], cut_flags=0.75, cut_rankings=0.75, cut_demonstrations=6.0)
people = {role: join(app, role) for role in ("labeler", "researcher", "admin")}
other = join(app)
rank_next(people["labeler"])
rank_next(other)
task = next(iter(app.state.oversight.several_opinions()))
paths = [path for path, ways in app.openapi()["paths"].items() if "get" in ways and "{" not in path]
own = [f"/labelers/{other.user.labeler_id}", f"/review/{task}", f"/screening/{made}", "/queues/w_rank"]
own += ["/static/preceptor.css", "/static/enhance.js", "/guide/training-1", "/queues/new?kind=compare"]
for path in paths + own:
    answer = people["admin"].client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
labeler = people["labeler"]
for kind in KINDS:
    labeler.open("/home")
    labeler.send(f"/work/start/{kind}")
    assert labeler.path.startswith("/work/a_"), kind
    labeler.open(f"/work/{labeler.item}/skip")
assert "torch" not in sys.modules and "transformers" not in sys.modules
print("pages", len(paths))
"""


def test_the_app_starts_without_torch():
    code = (
        "import sys, preceptor.labelling.serve; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_serves_every_page(tmp_path):
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", f"{wheel}[web]", "httpx"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr.strip().splitlines()[-1]}")
    command = [python, "-c", WALK, str(Path(__file__).parent)]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=alone, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pages" in done.stdout
