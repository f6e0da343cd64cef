"""Large files stream: the peak memory of an import does not grow with the file."""

import gzip
import json
import random
import subprocess
import sys

import pytest

from preceptor.store import Workspace

PEAK = """
import resource, sys
from preceptor.store import Workspace
from preceptor.intake.corpus import import_corpus
from preceptor.intake.importing import import_demonstrations
workspace = Workspace(sys.argv[1])
report = {"corpus": import_corpus, "demonstrations": import_demonstrations}[sys.argv[2]](workspace, [sys.argv[3]])
print(report.taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(tmp_path, kind, path):
    """(rows taken, peak memory in MiB) of an import in its own process."""
    root = tmp_path / f"w-{path.name}-{kind}"
    Workspace.create(root)
    command = [sys.executable, "-c", PEAK, str(root), kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, mebibytes = done.stdout.split()
    return int(taken), int(mebibytes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corpus", "demonstrations"])
def test_memory_stays_flat(tmp_path, kind):
    draw = random.Random(0)
    paths = {}
    for name, rows in (("small", 2000), ("large", 60_000)):
        paths[name] = tmp_path / f"{name}.json.gz"
        with gzip.open(paths[name], "wt", compresslevel=1) as file:  # one JSON list: the hardest shape to stream
            file.write("[")
            for n in range(rows):
                text = draw.randbytes(1000).hex()
                row = {"text": text} if kind == "corpus" else {"instruction": f"Say {n}.", "input": "", "output": text}
                file.write(("," if n else "") + json.dumps(row))
            file.write("]")
    assert paths["large"].stat().st_size > 60_000_000
    small, large = peak(tmp_path, kind, paths["small"]), peak(tmp_path, kind, paths["large"])
    assert (small[0], large[0]) == (2000, 60_000)
    assert large[1] < small[1] + 64  # the text of the large file is 120 MB
