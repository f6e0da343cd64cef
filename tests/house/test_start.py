"""What a process loads, and how fast help answers. Looked at from outside, in processes of their own."""

import os
import subprocess
import sys

import pytest
from commands import COMMANDS

HEAVY = ("torch", "transformers", "sqlalchemy", "fastapi", "numpy")
HELP = """
import sys
from preceptor.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""
WALK = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
"""
LOADED = "\nprint('loaded:', *[name for name in {names!r} if name in sys.modules])\n"


def loaded(code: str, names: tuple[str, ...], *arguments: str) -> list[str]:
    """Which of the libraries `names` a fresh process has loaded after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + LOADED.format(names=names), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_loads_nothing_heavy(words):
    assert loaded(HELP, HEAVY, *words, "--help") == []


def test_this_would_notice_a_heavy_import():
    assert loaded("import sys, numpy", HEAVY) == ["numpy"]


@pytest.mark.parametrize("package", ["labelling", "simulation", "store", "intake", "statistics", "report", "cli"])
def test_the_half_of_the_people_loads_no_torch(package):
    assert loaded(WALK, ("torch", "transformers"), f"preceptor.{package}") == []


def processor_seconds(*command: str) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    usage = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


def test_help_is_fast():
    """Half a second is meant, on a machine that starts Python in 15 ms. Other processes on this machine make a clock on
    the wall useless, so this compares processor time, the best of five, with that of a Python that does nothing; in
    turns, so that what the machine does beside it meets both."""
    commands = (("-m", "preceptor", "--help"), ("-c", "pass"))
    rounds = [[processor_seconds(sys.executable, *words) for words in commands] for _ in range(5)]
    helped, nothing = map(min, zip(*rounds))
    assert helped < 33 * nothing, f"{helped:.3f} s against {nothing:.3f} s"
