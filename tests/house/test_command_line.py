"""What the command line says: help for every option, and one clear message for what nobody knows."""

import subprocess
import sys

import pytest
from commands import COMMANDS


def preceptor(*words: str, folder=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "preceptor", *words], capture_output=True, text=True, cwd=folder, check=False
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_help(words):
    command = COMMANDS[words]
    assert command.help, f"preceptor {' '.join(words)} does not say what it does"
    silent = [
        argument.name
        for argument in command.assemble_argument_collection(parse_docstring=True)
        if argument.show and not (argument.parameter.help or "").strip()
    ]
    assert not silent


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("sft", "--epoks", "3"), "--epochs"),
        (("ppo", "--klcoef", "0.1"), "--kl-coef"),
        (("trian",), "pretrain"),
        (("import", "prompt", "x"), "prompts"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_unknown_word_names_the_nearest(words, nearest, tmp_path):
    done = preceptor(*words, folder=tmp_path)
    assert done.returncode == 2
    assert nearest in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[sft]\nepoks = 3\n", ("[sft]", "'epoks'", "did you mean epochs?")),
        ('bass = "tiny"\n', ("'bass'", "did you mean base?")),
        ("[pop]\nsteps = 3\n", ("'pop'", "did you mean ppo?")),
        ("sft = 3\n", ("sft is a table",)),
        ("[sft\n", ("preceptor.toml",)),
    ],
)
def test_a_wrong_setting_is_one_line(settings, said, tmp_path):
    (tmp_path / "preceptor.toml").write_text(settings)
    done = preceptor("sft", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for part in (*said, str(tmp_path / "preceptor.toml")):
        assert part in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["preceptor.toml"]


def test_settings_of_the_folder_are_defaults_and_the_command_line_wins(tmp_path):
    """Both values are refused by the stage's own check, which says which of them it got."""
    (tmp_path / "preceptor.toml").write_text('[sft]\nprecision = "fp8"\n')
    assert "precision is 'fp8'" in preceptor("sft", folder=tmp_path).stderr
    assert "precision is 'fp4'" in preceptor("sft", "--precision", "fp4", folder=tmp_path).stderr
