"""A real server in a process of its own, and many clients at once."""

import http.client
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

from persons import fields_of

from preceptor.store import Workspace
from preceptor.store.accounts import Accounts, User
from preceptor.store.queues import Queue, Queues

SERVE = """
import sys
from preceptor.config import WebConfig
from preceptor.pipeline.web import serve_web
from preceptor.store import Workspace
serve_web(Workspace(sys.argv[1]), WebConfig(port=int(sys.argv[2]), writes_per_minute=100_000), models=False)
"""


class Server:
    """Starts, is killed, starts again on the same port."""

    def __init__(self, root, log):
        self.root, self.log = root, log
        self.process: subprocess.Popen | None = None
        # Bound and not listening, it keeps the port from everybody but a listener that may reuse it, as ours may: also
        # while the server is dead.
        self.place = socket.socket()
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.place.bind(("127.0.0.1", 0))
        self.port = self.place.getsockname()[1]

    def start(self) -> None:
        """Returns when the server answers."""
        out = self.log.open("ab")
        command = [sys.executable, "-c", SERVE, str(self.root), str(self.port)]
        self.process = subprocess.Popen(command, stdout=out, stderr=out)
        out.close()
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                if self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-3000:]) from None
            finally:
                connection.close()
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.place.close()


def people(workspace: Workspace, count: int) -> list[tuple[User, str]]:
    """Labelers with an open session: (user, cookie)."""
    accounts = Accounts(workspace.store)
    made = []
    for number in range(count):
        link = accounts.invite("test")
        user = accounts.accept(link, name=f"P{number}", email=f"p{number}@x.org", password_hash="x", settings={})
        made.append((user, accounts.open_session(user.id, "test")))
    return made


def comparison_queue(workspace: Workspace) -> Queue:
    queue = Queue(
        id="w_c",
        name="Compare",
        kind="compare",
        rubric="training-1",
        models=("sft", "ppo"),
        overlap_share=1.0,
        overlap_labels=100,
    )
    return Queues(workspace.store).create(queue)


class Refused(Exception):
    """The server answered, but not as it should."""


@dataclass
class Client:
    """One labeler's browser: keeps one connection, follows redirects, measures each request."""

    port: int
    cookie: str
    seconds: list[tuple[str, float]] = field(default_factory=list)
    connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
        """(address, page) after redirects. Raises OSError or HTTPException where the server is away."""
        for _ in range(5):
            started = time.perf_counter()
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            headers = {"cookie": f"session={self.cookie}"}
            body = None
            if fields is not None:
                headers["content-type"] = "application/x-www-form-urlencoded"
                body = urlencode(fields)
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                raise
            self.seconds.append((method, time.perf_counter() - started))
            if answer.status == 303:
                method, path, fields = "GET", answer.headers["location"], None
                continue
            if answer.status >= 400:
                raise Refused(f"{method} {path}: {answer.status} {re.sub('<[^>]+>', ' ', text)[-600:]}")
            return path, text
        raise Refused("too many redirects")


@dataclass
class Labeler(Client):
    """Compares until `stop` is set, or nothing is left. `acknowledged`: key -> what the server said it took."""

    stop: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)  # the server will not come back
    rng: random.Random = field(default_factory=random.Random)
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)
    drafts: int = 0
    last_draft: tuple[str, str] | None = None
    lost_drafts: list[str] = field(default_factory=list)
    retries: int = 0
    error: str = ""

    def persist(self, method: str, path: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
        """As somebody would: while the server is away, try the same again."""
        while True:
            try:
                return self.ask(method, path, fields)
            except (OSError, http.client.HTTPException):
                if self.given_up.is_set():
                    raise
                self.retries += 1
                time.sleep(0.05)

    def once(self, number: int) -> bool:
        """Take an item, save drafts, submit. False where nothing is left."""
        _, home = self.persist("GET", "/home")
        token = fields_of(home)["token"]
        path, page = self.persist("POST", "/work/start/compare", {"token": token})
        if "/work/" not in path:
            return False
        item = path.split("?")[0].removeprefix("/work/")
        form = fields_of(page)
        for step in range(self.rng.randrange(3)):
            text = f"draft {number}.{step} {self.rng.random()}"
            self.persist("POST", f"/work/{item}/draft/compare", form | {"note": text})
            self.drafts += 1
            self.last_draft = (item, text)
            _, page = self.persist("GET", f"/work/{item}")
            if fields_of(page).get("note") != text:
                self.lost_drafts.append(text)
        note = f"final {number} {self.rng.random()}"
        verdict = self.rng.choice(("A", "tie", "B"))
        self.persist("POST", path, form | {"note": note, "verdict": verdict, "then": ""})
        self.acknowledged[form["key"]] = (item, note)
        self.last_draft = None
        return True

    def run(self) -> None:
        number = 0
        try:
            while not self.stop.is_set() and self.once(number):
                number += 1
            token = fields_of(self.persist("GET", "/home")[1])["token"]
            path, page = self.persist("POST", "/work/start/compare", {"token": token})
            if "/work/" in path:
                form, text = fields_of(page), f"left as a draft {self.rng.random()}"
                self.persist("POST", f"{path}/draft/compare", form | {"note": text})
                self.last_draft = (path.removeprefix("/work/"), text)
        except Exception as error:
            self.error = repr(error)
