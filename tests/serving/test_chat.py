"""The terminal chat, with typed lines from a list."""

import io

import pytest
import server as servers
from rich.console import Console

from preceptor.errors import UserError
from preceptor.serving import chat as terminal
from preceptor.serving.engine import Running


class Typed(Console):
    """A console whose person types these lines; an exception in their place is raised."""

    def __init__(self, *lines):
        super().__init__(file=io.StringIO(), width=200)
        self.lines = list(lines)

    def input(self, prompt="", **_):
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    @property
    def shown(self):
        return self.file.getvalue()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return servers.make_workspace(tmp_path_factory.mktemp("chat") / "workspace", ("alpha",))


@pytest.fixture
def prompts(monkeypatch):
    """The token prompts that reach the worker."""
    seen = []
    submit = Running.submit

    def noted(self, inbox, orders):
        seen.append(list(orders[0].prompt))
        return submit(self, inbox, orders)

    monkeypatch.setattr(Running, "submit", noted)
    return seen


def test_each_turn_carries_those_before_until_reset(workspace, prompts):
    console = Typed("hello", "", "and then?", "/what", "/reset", "hello", "/quit", "never read")
    terminal.chat(workspace, "alpha", max_new_tokens=8, seed=1, console=console)
    first, second, third = prompts
    assert second[: len(first)] == first
    assert len(second) > len(first) + 8
    assert third == first
    assert "There is no command /what" in console.shown
    assert console.lines == ["never read"]


def test_the_same_seed_gives_the_same_words(workspace):
    shown = []
    for _ in range(2):
        console = Typed("hello", "more")
        terminal.chat(workspace, "alpha", max_new_tokens=12, seed=5, console=console)
        shown.append(console.shown)
    assert shown[0] == shown[1]
    assert list(workspace.store.prompts()) == []


def test_ctrl_c_stops_the_answer_and_not_the_chat(workspace, monkeypatch, prompts):
    console = Typed(KeyboardInterrupt(), "hello", "again", "/quit")
    printed = console.print
    calls = []

    def interrupted(*words, **settings):
        calls.append(words)
        if len(prompts) == 1 and len(calls) > 4 and not console.stopped:
            console.stopped = True
            raise KeyboardInterrupt
        printed(*words, **settings)

    console.stopped = False
    monkeypatch.setattr(console, "print", interrupted)
    terminal.chat(workspace, "alpha", max_new_tokens=400, seed=1, console=console)
    assert console.stopped
    assert "(stopped)" in console.shown
    assert len(prompts) == 2


def test_a_full_context_is_told(workspace):
    console = Typed("x" * 5000, "/quit")
    terminal.chat(workspace, "alpha", console=console)
    assert "fills the model's context of 2048 tokens" in console.shown


def test_mistakes_are_one_line(workspace):
    with pytest.raises(UserError, match="no model 'gamma'"):
        terminal.chat(workspace, "gamma", console=Typed())
    with pytest.raises(UserError, match="max_new_tokens"):
        terminal.chat(workspace, "alpha", max_new_tokens=0, console=Typed())
