"""The loop closed in a browser: a question with consent, a labeler's ranking, training, and the new model answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import server as servers

from preceptor.store.accounts import Accounts
from preceptor.store.queues import Queues
from preceptor.store.waiting import waiting

PLACES = map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser"))
CHROMIUM = next((path for path in PLACES if path.exists()), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
AXE = (Path(__file__).parents[1] / "labelling" / "vendor" / "axe-4.14.1.min.js").read_text()
SETTINGS = """
base = "alpha"
[sample]
max_new_tokens = 16
[reward]
model = "alpha"
lr = 1e-3
[ppo]
reference = "alpha"
steps = 1
batch = 4
minibatch = 4
micro_batch = 4
max_new_tokens = 8
"""
QUESTIONS = ("How do I make tea from fresh mint leaves?", "Why is the sea salty, and since when?")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def web(tmp_path):
    workspace = servers.make_workspace(tmp_path / "workspace")
    (workspace.root / "preceptor.toml").write_text(SETTINGS)
    running = servers.start(workspace, program=servers.WEB)
    yield running
    running.stop()


class Window:
    """A browser window in which somebody is signed in; remembers what went wrong in it."""

    def __init__(self, chromium, web, name, role="labeler", **more):
        accounts = Accounts(web.workspace.store)
        token = accounts.invite("test", role=role)
        self.user = accounts.accept(
            token, name=name, email=f"{name}@example.org", password_hash="x", settings={"guide_read": True}
        )
        self.context = chromium.new_context(base_url=web.url, **more)
        cookie = {"name": "session", "value": accounts.open_session(self.user.id, "test"), "url": web.url}
        self.context.add_cookies([cookie])
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.troubles.append(line.text))

    def faults(self):
        """What axe calls serious or critical on the page that is open, and whether it scrolls sideways."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("async () => (await axe.run(document)).violations")
        wide = self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        serious = [fault["id"] for fault in found if fault["impact"] in ("serious", "critical")]
        return serious + (["wider than the screen"] if wide else [])

    def close(self):
        self.context.close()
        assert self.troubles == []


def preceptor(workspace, *words):
    command = [sys.executable, "-m", "preceptor", *words, "--workspace", str(workspace.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rank_by_keys(page):
    """Rate every answer and rank them, as a labeler with a keyboard does."""
    page.goto("/home")
    page.keyboard.press("1")
    for letter in "ABCDEF":
        page.wait_for_url(f"**/rate/{letter}")
        page.keyboard.press("5")
        page.keyboard.press("j")
        page.keyboard.press("y")
        for _ in range(10):
            page.keyboard.press("n")
        page.keyboard.press("Control+Enter")
    page.wait_for_url("**/rank")
    for keys in ("a1", "b2", "c3", "d4", "e5", "f5"):
        for key in keys:
            page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/home*")


def test_from_a_question_to_a_model_that_learned_from_it(chromium, web):
    store = web.workspace.store
    asker = Window(chromium, web, "ana")
    page = asker.page
    page.goto("/playground")
    page.get_by_label("Yes, use my prompts").check()
    page.get_by_role("button", name="Save").click()
    for question in QUESTIONS:
        page.goto("/playground")
        page.locator("#max_tokens").fill("12")
        page.locator("#say").fill(question)
        page.locator("#say").press("Control+Enter")
        page.wait_for_url("**/playground/*")
        page.get_by_text("Kept for training.").wait_for()
        assert asker.faults() == []
        page.locator("h1").click()
        page.keyboard.press("1")  # the vote
        page.get_by_text("The vote is stored as a comparison.").wait_for()
    assert waiting(store).sources == {"playground": 2}
    assert "2  new prompts wait (2 from playground)" in preceptor(web.workspace, "status")

    assert "2 prompts wait" in preceptor(web.workspace, "next-round", "--model", "alpha", "--dry-run")
    told = json.loads(preceptor(web.workspace, "next-round", "--model", "alpha", "--json"))
    assert told["queued"] == 2

    labeler = Window(chromium, web, "ben")
    for _ in QUESTIONS:
        rank_by_keys(labeler.page)
    ranked = [ranking for ranking, _ in store.rankings() if ranking.labeler_id == labeler.user.labeler_id]
    assert [ranking.ranks for ranking in ranked] == [(1, 2, 3, 4, 5, 5)] * 2
    (queue,) = Queues(store).queues()
    assert Queues(store).progress()[queue.id]["done"] == 2
    labeler.close()

    preceptor(web.workspace, "reward")
    preceptor(web.workspace, "ppo")
    page.goto("/playground?mode=one")
    page.get_by_label("Model", exact=True).select_option("ppo")
    page.locator("#max_tokens").fill("12")
    page.locator("#say").fill("And what do you say now?")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/playground/*")
    assert page.locator(".answer-sheet code").inner_text() == "ppo"
    assert "And what do you say now?" in page.locator(".said").inner_text()
    asker.close()


def test_the_playground_by_keys_alone(chromium, web):
    window = Window(chromium, web, "kim")
    page = window.page
    page.goto("/playground")

    def tab_to(selector):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("[name=consent]")
    page.keyboard.press("Space")
    tab_to("form.notice button")
    page.keyboard.press("Enter")
    page.locator("[name=consent][checked]").wait_for()
    tab_to("#say")
    page.keyboard.type("What is a fox?")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/playground/*")
    tab_to("button[value=right]")
    page.keyboard.press("Enter")
    page.get_by_text("You said: right is better.").wait_for()
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    window.close()


def test_the_playground_on_a_phone(chromium, web):
    window = Window(
        chromium,
        web,
        "lea",
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
        color_scheme="dark",
    )
    page = window.page
    page.goto("/playground")
    assert window.faults() == []
    page.locator("#say").fill("What does a fox eat in winter?")
    page.get_by_role("button", name="Send").tap()
    page.wait_for_url("**/playground/*")
    assert window.faults() == []
    page.get_by_role("button", name="About the same").tap()
    page.get_by_text("The vote is not stored.").wait_for()
    assert window.faults() == []
    window.close()


def test_an_answer_can_be_stopped(chromium, web):
    window = Window(chromium, web, "tom")
    page = window.page
    page.goto("/playground")
    page.locator("#max_tokens").fill("1900")
    page.locator("#say").fill("Tell me everything about foxes.")
    page.get_by_role("button", name="Send").click()
    page.locator("#live .matter", has_text=" ").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped. Your message is still here.").first.wait_for()
    assert page.locator("#say").input_value() == "Tell me everything about foxes."
    for _ in range(100):
        if web.metric("preceptor_rows_running") == 0:
            break
        page.wait_for_timeout(10)
    assert web.metric("preceptor_rows_running") == 0
    window.close()


def test_keys_are_made_in_the_web_app(chromium, web):
    window = Window(chromium, web, "rosa", role="researcher")
    page = window.page
    page.goto("/keys")
    page.get_by_label("Owner").fill("the shop")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Make a key").click()
    secret = page.get_by_label("The key").input_value()
    assert window.faults() == []
    assert web.call("/v1/models", key=secret)[0] == 200
    page.goto("/keys")
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke the key of the shop").click()
    page.get_by_text("revoked").wait_for()
    assert web.call("/v1/models", key=secret)[0] == 401
    window.close()
