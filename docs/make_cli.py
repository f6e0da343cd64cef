"""Writes docs/cli.md from the command line itself: `make docs`. A test fails when the page is stale."""

from pathlib import Path

from preceptor.cli import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# Command line

Made from the program itself by `make docs`; what stands here is what `preceptor COMMAND --help` says.

Values come from the defaults below, then from the command's table in `preceptor.toml` (`[sft]`, `[ppo]`, ..., keys as
the options without the dashes), then from the command line. Every command that works on a workspace uses the one that
you are in, or `--workspace DIR`. Exit code 0: done; 2: a mistake of yours, told in one message; 1: a mistake of ours.

"""


def page() -> str:
    return HEAD + app.generate_docs(flatten_commands=True, heading_level=2).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
