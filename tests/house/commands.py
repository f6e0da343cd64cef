"""The commands of the program, found by walking it."""

from collections.abc import Iterator

from cyclopts import App

from preceptor.cli import app


def commands(parent: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """(words, command) of every command that runs something, groups such as `import` left out."""
    for name in parent:
        if name.startswith("-"):
            continue
        child = parent[name]
        if child.default_command is not None:
            yield (*path, name), child
        yield from commands(child, (*path, name))


COMMANDS = dict(commands())
