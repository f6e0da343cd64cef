"""A hundred labelers for a minute on SQLite: each saves a draft, submits and gets the next item every five seconds.

They arrive in the first five seconds, one after another, as their submissions do from then on. That all of them open
their first page in the same instant is measured apart, at the end.
"""

import os
import random
import resource
import threading
import time

import numpy as np
import pytest
from hammer import Labeler, Server, comparison_queue, people
from persons import fields_of, make_workspace

from preceptor.labelling.app import create_app


@pytest.mark.slow
def test_a_hundred_labelers(tmp_path, capsys):
    people_count, every, seconds = 100, 5.0, 60.0
    workspace = make_workspace(tmp_path / "ws", prompts=400)
    create_app(workspace)
    comparison_queue(workspace)
    staff = people(workspace, people_count)
    server = Server(workspace.root, tmp_path / "log")
    server.start()
    labelers = [Labeler(server.port, cookie, rng=random.Random(n)) for n, (_, cookie) in enumerate(staff)]
    started = time.monotonic()

    def work(number: int, labeler: Labeler) -> None:
        due = started + every * number / people_count  # spread over the five seconds
        try:
            time.sleep(every * number / people_count)
            _, home = labeler.ask("GET", "/home")
            path, page = labeler.ask("POST", "/work/start/compare", {"token": fields_of(home)["token"]})
            while due < started + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                form = fields_of(page) | {"note": f"{number} at {due:.1f}"}
                labeler.ask("POST", f"{path}/draft/compare", form)
                last = path
                path, page = labeler.ask("POST", path, form | {"verdict": "tie"})  # answers with the next item
                assert path != last
                labeler.acknowledged[form["key"]] = (last, form["note"])
                due += every
        except Exception as error:
            labeler.error = repr(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(labelers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    times = np.array([spent for labeler in labelers for _, spent in labeler.seconds])
    posts = np.array([spent for labeler in labelers for method, spent in labeler.seconds if method == "POST"])
    at_once = [threading.Thread(target=labeler.ask, args=("GET", "/home")) for labeler in labelers]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    last = max(labeler.seconds[-1][1] for labeler in labelers)
    server.stop()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = (tmp_path / "log").read_text()
    done = sum(len(labeler.acknowledged) for labeler in labelers)
    with capsys.disabled():
        print(
            f"\n{done} submissions, {len(times)} requests in {took:.0f} s: median {1000 * np.median(times):.0f} ms, "
            f"p99 {1000 * np.quantile(times, 0.99):.0f} ms, writes p99 {1000 * np.quantile(posts, 0.99):.0f} ms, "
            f"slowest {1000 * times.max():.0f} ms; all hundred at once: the last page after {1000 * last:.0f} ms; "
            f"the server used {spent.ru_utime + spent.ru_stime:.0f} s of CPU; "
            f"load average {os.getloadavg()[0]:.1f}"
        )
    assert [labeler.error for labeler in labelers if labeler.error] == []
    assert "database is locked" not in log
    assert '"status": 5' not in log
    assert done == len(list(workspace.store.rankings())) == people_count * seconds / every
    assert np.quantile(times, 0.99) < 0.5
    workspace.store.close()
