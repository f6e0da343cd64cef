"""The wheel holds every file of the package: templates, stylesheets, scripts and the database's versions too."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from test_files import tracked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_package_is_in_the_wheel(contents):
    package = ROOT / "src"
    wanted = {str(path.relative_to(package)) for path in tracked() if path.is_relative_to(package)}
    assert wanted - contents == set()


@pytest.mark.parametrize(
    "name",
    [
        "preceptor/report/templates/report.html",
        "preceptor/preceptor.css",
        "preceptor/labelling/templates/rank.html",
        "preceptor/store/migrations/env.py",
        "preceptor/store/migrations/script.py.mako",
        "preceptor/store/migrations/versions/0001_loop.py",
    ],
)
def test_what_is_not_code_is_there(contents, name):
    assert name in contents


def test_nothing_else_is_in_the_wheel(contents):
    assert {name.split("/")[0].split("-")[0] for name in contents} == {"preceptor"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)
    assert not any(name.startswith("preceptor/tests") or name.endswith(".pyc") for name in contents)
