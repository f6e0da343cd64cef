"""A PostgreSQL server of the test's own: Debian's binaries, a socket in a temporary folder, no network."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) if Path("/usr/lib/postgresql").is_dir() else []


def found() -> bool:
    return bool(BINARIES)


needed = pytest.mark.skipif(not found(), reason="no PostgreSQL binaries under /usr/lib/postgresql")
BOTH = ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, needed])]
# the whole of a folder's tests again: minutes
BOTH_SLOWLY = ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow, needed])]


@contextmanager
def database(url: str, name: str, template: str = "template0"):
    """A database of its own on the server at `url`, a copy of `template`; yields its URL and drops it at the end."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield url.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def server():
    """Yields the URL of an empty database. The server refuses to run as root, so root starts it as `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a short path: a socket's name has 107 bytes
    binaries = BINARIES[-1].parent
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody", "nogroup")
    data = folder / "data"
    locale = ["--no-locale", "--encoding=UTF8"]
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "preceptor", "-A", "trust", *locale],
        check=True,
        capture_output=True,
        cwd=folder,
        **user,
    )
    command = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "max_connections=200"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)
    url = f"postgresql://preceptor@/postgres?host={folder}"
    try:
        while True:
            ready = subprocess.run(
                [binaries / "pg_isready", "-h", folder, "-U", "preceptor"], capture_output=True, check=False
            )
            if ready.returncode == 0:
                break
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # fast: sessions that a killed server left behind do not hold it up
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
