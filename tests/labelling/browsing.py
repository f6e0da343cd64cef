"""The app on a port of its own, people's windows onto it, and what they do there again and again."""

import socket
import threading
from pathlib import Path

import uvicorn
from persons import PASSWORD

from preceptor.store.queues import Queue

AXE = (Path(__file__).parent / "vendor" / "axe-4.14.1.min.js").read_text()
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
]
SMALL = (
    "[...document.querySelectorAll('.seg label, .button, summary')].filter(e => e.offsetHeight && e.offsetHeight < 24)"
)
ORDER = ["1", "best", "B=C", "2", "A", "3", "–", "4", "D", "5", "E"]
PATIENCE = 300_000  # milliseconds: more than a page takes on any machine
WIDE, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}


class Live:
    """The app on a port of its own, in a thread."""

    def __init__(self, app):
        self.app = app
        self.listener = socket.create_server(("127.0.0.1", 0))  # from here on a client is heard, if late
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


class Window:
    """One browser window; remembers what went wrong in it."""

    def __init__(self, chromium, live, size=WIDE, **more):
        self.context = chromium.new_context(viewport=size, base_url=live.url, **more)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.live = live
        self.troubles: list[str] = []
        self.page.on(
            "console", lambda m: m.type == "error" and "status of 422" not in m.text and self.troubles.append(m.text)
        )
        self.page.on("pageerror", lambda e: self.troubles.append(str(e)))

    def join(self, name: str, role: str = "labeler", cohort: str = "training", screening: str | None = None):
        accounts = self.live.app.state.accounts
        token = accounts.invite("preceptor", role=role, cohort=cohort, screening_id=screening)
        self.accept(f"/invite/{token}", name)
        self.name = name
        return self

    def accept(self, path: str, name: str) -> None:
        page = self.page
        page.goto(path)
        page.get_by_label("Your name").fill(name)
        page.get_by_label("E-mail").fill(f"{name.split()[0].lower()}@hallam.example")
        page.get_by_label("Password").fill(PASSWORD)
        page.locator("input[name=agree]").check()
        page.locator("button.primary").click()
        page.wait_for_url(lambda url: "/invite/" not in url)

    def serious(self) -> list[str]:
        """Faults that axe calls serious or critical on the page that is open."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        return [
            f"{self.page.url} {fault['id']}: {fault['help']} {[node['target'] for node in fault['nodes']][:3]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]

    def wider_than_screen(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def saved(self) -> None:
        """Wait until the draft is on the server."""
        self.page.locator("#saved", has_text="Saved ").wait_for()

    def close(self) -> None:
        self.context.close()
        assert self.troubles == []


def make_queues(live, **rank):
    queues = live.app.state.queues
    values = {"id": "w_r", "name": "Rank, customers’ prompts", "kind": "rank", "rubric": "training-1", "target": 300}
    queues.create(Queue(**values | {"k_max": 5, "overlap_share": 1.0} | rank))
    queues.create(Queue(id="w_d", name="Demonstrations", kind="demonstration", rubric="training-1", target=40))
    queues.create(
        Queue(id="w_c", name="Compare two", kind="compare", rubric="evaluation-1", models=("sft", "ppo"), cohort="any")
    )
    queues.create(Queue(id="w_t", name="Toxicity", kind="toxicity", rubric="evaluation-1", k_min=2, k_max=2))
    queues.create(Queue(id="w_p", name="Prompts", kind="prompt", rubric="training-1"))


def choose(page, name: str, value: str) -> None:
    """Click the drawn face of a radio button."""
    page.locator(f"label:has(input[name='{name}'][value='{value}'])").click()


def rate_by_mouse(page, letters="ABCDE", quality="5"):
    for letter in letters:
        page.wait_for_url(f"**/rate/{letter}")
        choose(page, f"{letter}.quality", quality)
        choose(page, f"{letter}.satisfies_constraint", "none-set")
        page.get_by_role("button", name="Answer No to the rest").click()
        page.wait_for_url(f"**/rate/{letter}#note")
        page.locator("[data-submit]").click()
    page.wait_for_url("**/rank")
