"""Who may open what, and what a foreign page, a flood or a thief gets."""

import re

import pytest
from fastapi.routing import APIRoute
from persons import PASSWORD, Person, fields_of, join, rank_next, rank_queue

from preceptor.labelling.access import Window
from preceptor.labelling.app import create_app
from preceptor.store.accounts import hash_token
from preceptor.store.queues import Queue
from preceptor.store.schema_labelling import invites, sessions, users

CUTS = {"cut_flags": 0.75, "cut_rankings": 0.75, "cut_demonstrations": 6.0}
OPEN = {"/", "/health", "/sign-in", "/invite/{link}", "/static/{name}"}
FOR_ADMINS = {
    "/accounts",
    "/accounts/{account}",
    "/accounts/{account}/password-link",
    "/accounts/sessions/{session}/end",
    "/trail",
    "/erase",
}
FOR_LABELERS = {"/home", "/history", "/guide", "/guide/{rubric}", "/settings", "/sign-out"}
PREFIXES_FOR_LABELERS = ("/work/", "/history/", "/settings/", "/trial/")


def needed(path: str) -> str:
    """The least role that may use a route."""
    if path in OPEN:
        return "nobody"
    if path in FOR_LABELERS or path.startswith(PREFIXES_FOR_LABELERS):
        return "labeler"
    return "admin" if path in FOR_ADMINS else "researcher"


def routes(app) -> list[tuple[str, str]]:
    return [(method, r.path) for r in app.routes if isinstance(r, APIRoute) for method in sorted(r.methods)]


def walk_routes(app):
    """All routes, those of included routers too, from the schema and the app."""
    found = set(routes(app))
    for path, ways in app.openapi()["paths"].items():
        found |= {(way.upper(), path) for way in ways}
    return sorted(found)


def test_every_route_with_every_role(app):
    people = {"nobody": Person(app)}
    people |= {role: join(app, role) for role in ("labeler", "researcher", "admin")}
    tokens = {
        role: fields_of(p.open("/settings").text, "/settings")["token"]
        for role, p in people.items()
        if role != "nobody"
    }
    tokens["nobody"] = fields_of(people["nobody"].open("/sign-in").text, "/sign-in")["token"]
    order = list(people)
    seen = walk_routes(app)
    assert len(seen) > 55
    for method, path in seen:
        if path in ("/sign-out", "/sign-in"):
            continue
        address = re.sub(r"\{[^}]+\}", "nothing", path)
        for role, person in people.items():
            data = {"token": tokens[role]} if method == "POST" else None
            answer = person.client.request(method, address, data=data, follow_redirects=False)
            allowed = order.index(role) >= order.index(needed(path))
            what = (method, path, role, answer.status_code)
            assert answer.status_code < 500, what
            if allowed:
                assert answer.status_code not in (401, 403), what
                assert answer.headers.get("location") != "/sign-in" or path == "/", what
            elif role == "nobody":
                assert answer.status_code == 401 or answer.headers.get("location") == "/sign-in", what
            else:
                assert answer.status_code == 403, what


def test_a_window_takes_so_many_and_moves_on():
    now = 100.0
    window = Window(2, 10.0, clock=lambda: now)
    assert window.hit("a")
    assert window.left("a") == 1
    now = 104.0
    assert window.hit("a")
    assert not window.hit("a")
    assert window.left("a") == 0
    assert window.left("b") == 2
    assert window.wait("a") == 6.0
    assert window.wait("b") == 0.0
    now = 110.0  # the first is ten seconds old
    assert window.left("a") == 1
    assert window.hit("a")
    assert not window.hit("a")
    window.clear("a")
    assert window.left("a") == 2
    for number in range(50):
        window.hit(f"k{number}")
    now = 130.0
    assert window.left("other") == 2
    assert window._hits == {}  # nothing is kept of those who are gone


def test_a_candidate_on_trial_sees_only_the_trial(app, researcher):
    rank_queue(app)
    made = app.state.screenings.create("June", topics=["health"], **CUTS)
    candidate = join(app, screening=made)
    candidate.open("/home")
    assert "Nothing is waiting" in candidate.page.text
    assert app.state.queues.take(candidate.user.labeler_id, "rank", cohort="training", trial=True) is None


def test_tokens_and_passwords_are_never_stored(app, workspace, labeler):
    cookie = labeler.client.cookies["session"]
    with workspace.store.read() as connection:
        everything = str([connection.execute(table.select()).all() for table in (sessions, invites, users)])
    assert cookie not in everything
    assert hash_token(cookie) in everything
    assert PASSWORD not in everything
    assert "$argon2id$" in everything


def test_sessions_end_at_sign_out_at_revocation_and_with_a_new_password(app, admin):
    labeler = join(app)
    cookies = dict(labeler.client.cookies)
    labeler.open("/settings")
    labeler.send("/sign-out")
    thief = Person(app)
    thief.client.cookies.update(cookies)
    thief.open("/home")
    assert thief.path == "/sign-in"

    labeler.send("/sign-in", email=labeler.email, password=PASSWORD)
    assert labeler.path == "/home"
    session = app.state.accounts.sessions(labeler.user.id)[0]["id"]
    admin.open("/accounts")
    admin.send(f"/accounts/sessions/{session}/end")
    labeler.open("/home")
    assert labeler.path == "/sign-in"

    labeler.send("/sign-in", email=labeler.email, password=PASSWORD)
    admin.open("/accounts")
    admin.send(f"/accounts/{labeler.user.id}/password-link")
    address = re.search(r"http://testserver(/invite/[\w-]+)", admin.page.text).group(1)
    other = Person(app)
    other.open(address)
    other.send(address, password="quite another sentence")
    assert other.path == "/home"
    labeler.open("/home")
    assert labeler.path == "/sign-in"
    other.open(address, 410)


def test_a_closed_account_is_out_at_once(app, admin, labeler):
    admin.open("/accounts")
    admin.send(f"/accounts/{labeler.user.id}", state="disabled")
    labeler.open("/home")
    assert labeler.path == "/sign-in"
    labeler.send("/sign-in", 401, email=labeler.email, password=PASSWORD)


def test_five_wrong_passwords_make_a_pause_for_the_right_one_too(app, labeler):
    stranger = Person(app)
    stranger.open("/sign-in")
    for left in (4, 3, 2, 1):
        stranger.send("/sign-in", 401, email=labeler.email, password="not the password")
        assert f"You have {left} " in stranger.page.text
    stranger.send("/sign-in", 401, email=labeler.email, password="not the password")
    stranger.send("/sign-in", 429, email=labeler.email, password=PASSWORD)
    other = Person(app)
    other.open("/sign-in")
    other.send("/sign-in", 401, email="unknown@example.org", password="x")
    assert "You have 4 tries left" in other.page.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 200),
        ({}, 200),
    ],
)
def test_forms_of_other_sites_are_refused(app, labeler, headers, status):
    form = fields_of(labeler.open("/settings").text, "/settings")
    assert labeler.client.post("/settings", data=form, headers=headers).status_code == status


def test_a_page_that_was_open_when_the_session_ended_works_once_signed_in_again(app, workspace, labeler):
    app.state.queues.create(Queue(id="w_d", name="D", kind="demonstration", rubric="training-1"))
    labeler.open("/home")
    labeler.send("/work/start/demonstration")
    address, form = labeler.path, fields_of(labeler.page.text) | {"answer": "long in the writing"}
    app.state.accounts.revoke_session(app.state.accounts.sessions(labeler.user.id)[0]["id"], "test")
    refused = labeler.client.post(address, data=form)
    assert refused.status_code == 401
    assert "Sign in again in another tab" in refused.text
    labeler.open("/sign-in")
    labeler.send("/sign-in", email=labeler.email, password=PASSWORD)
    assert labeler.client.post(address, data=form).status_code == 200
    ((made, _),) = workspace.store.demonstrations()
    assert made.text == "long in the writing"


def test_a_form_needs_the_token_of_its_own_visitor(app, labeler):
    other = join(app)
    form = fields_of(labeler.open("/settings").text, "/settings")
    for token in ("", "x", "é", fields_of(other.open("/settings").text, "/settings")["token"]):
        assert labeler.client.post("/settings", data=form | {"token": token}).status_code == 403
    del form["token"]
    assert labeler.client.post("/settings", data=form).status_code == 403


def test_cookies_are_host_only_and_for_https_when_asked(workspace):
    app = create_app(workspace, secure_cookies=True)
    person = Person(app, "https://testserver")
    token = app.state.accounts.invite("preceptor", role="admin")
    person.open(f"/invite/{token}")
    form = fields_of(person.page.text) | {"name": "A", "email": "a@example.org", "password": PASSWORD, "agree": "yes"}
    answer = person.client.post(f"/invite/{token}", data=form, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie


def test_headers_of_every_answer(app, labeler):
    for path in ("/home", "/sign-in", "/nothing", "/static/preceptor.css", "/health"):
        headers = labeler.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-request-id"]


def test_no_template_has_inline_script_or_style():
    from preceptor.labelling.pages import HERE

    for path in (HERE / "templates").glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\bsrc=)|javascript:", text), path.name
        assert "| safe" not in text
        assert "|safe" not in text


def test_the_vendored_script_is_the_published_one():
    import hashlib

    from preceptor.labelling.pages import STATIC

    digest = hashlib.sha256((STATIC / "htmx-2.0.11.min.js").read_bytes()).hexdigest()
    assert digest == "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"


def test_bodies_are_capped_with_and_without_a_length_and_nothing_is_cut(app, workspace, labeler):
    app.state.queues.create(Queue(id="w_d", name="D", kind="demonstration", rubric="training-1"))
    labeler.open("/home")
    labeler.send("/work/start/demonstration")
    form = fields_of(labeler.page.text)
    big = "x" * 5_000_000
    answer = labeler.client.post(labeler.path, data=form | {"answer": big})
    assert answer.status_code == 413
    assert "2 MB at most" in answer.text

    def stream():
        for _ in range(50):
            yield b"answer=" + b"x" * 100_000

    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert labeler.client.post(labeler.path, content=stream(), headers=headers).status_code == 413
    long = labeler.client.post(labeler.path, data=form | {"answer": "y" * 45_000})
    assert long.status_code == 422
    assert "It has 45,000 characters; 40,000 is the most." in long.text
    assert len(fields_of(labeler.open(labeler.path).text)["answer"]) == 45_000  # all of it is there to be shortened
    assert not list(workspace.store.demonstrations())


def test_writes_are_limited_per_session(workspace):
    """One a minute: the second comes sooner than that on any machine."""
    app = create_app(workspace, writes_per_minute=1)
    labeler = join(app)
    form = fields_of(labeler.open("/settings").text, "/settings")
    taken, refused = [labeler.client.post("/settings", data=form) for _ in range(2)]
    assert (taken.status_code, refused.status_code) == (200, 429)
    assert "retry-after" in refused.headers


def test_every_write_is_limited(app, admin):
    """One a minute, on a clock that stands."""
    token = fields_of(admin.open("/settings").text, "/settings")["token"]
    app.state.gate._writes = Window(1, 60.0, clock=lambda: 0.0)
    assert admin.client.post("/settings", data={"token": token}).status_code == 200
    writes = [(method, path) for method, path in walk_routes(app) if method not in ("GET", "HEAD")]
    assert len(writes) > 30
    for method, path in writes:
        address = re.sub(r"\{[^}]+\}", "nothing", path)
        answer = admin.client.request(method, address, data={"token": token}, follow_redirects=False)
        assert answer.status_code == 429, (method, path)


def test_a_cookie_that_was_made_up_opens_no_window_of_its_own(app):
    app.state.gate._writes = Window(1, 60.0, clock=lambda: 0.0)
    stranger, answers = Person(app), []
    for made_up in ("one", "two"):
        stranger.client.cookies.set("session", made_up)
        form = fields_of(stranger.open("/sign-in").text, "/sign-in") | {"email": "a@example.org", "password": "x"}
        answers.append(stranger.client.post("/sign-in", data=form).status_code)
    assert answers == [401, 429]


def test_numbers_in_addresses_that_no_database_holds(admin):
    for before in ("2147483648", "9223372036854775808", "-1", "x", "1e400"):
        admin.open(f"/trail?before={before}", 422)
    admin.open("/history?before=1e400")
    admin.open("/history?before=nan")


def test_only_known_names_are_answered_when_names_are_given(workspace):
    app = create_app(workspace, hosts=["127.0.0.1", "labels.example"])
    assert Person(app, "http://evil.example").client.get("/sign-in").status_code == 400
    assert Person(app, "http://labels.example:8080").client.get("/sign-in").status_code == 200


def test_text_of_people_and_models_is_escaped_everywhere(app, workspace, researcher):
    from preceptor.types import Completion, Prompt

    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e evil \" ' {{ 7*7 }} 👩🏽‍🔧 مرحبا"
    prompt = Prompt.of(nasty, user_id="evil")
    workspace.store.add_prompts([prompt])
    workspace.store.add_completions([Completion.of(prompt.id, "evil", f"{nasty} {n}", index=n) for n in range(4)])
    rank_queue(app, models=("evil",), name=nasty[:100], overlap_share=1.0, overlap_labels=2)
    people = [join(app, name=nasty[:60]) for _ in range(2)]
    for person in people:
        rank_next(person, "1234")
        for path in ("/home", "/history", "/settings"):
            assert "<script>alert" not in person.open(path).text
            assert "<img src" not in person.page.text
    task = next(iter(app.state.oversight.several_opinions()))
    for path in ("/round", "/queues", "/review", f"/review/{task}", f"/labelers/{people[0].user.labeler_id}"):
        page = researcher.open(path).text
        assert "<script>alert" not in page
        assert "<img src" not in page
        assert "49" not in re.findall(r"\{\{|49 👩", page)


def test_an_invitation_works_once_and_asks_for_consent(app, workspace):
    token = app.state.accounts.invite("preceptor")
    person = Person(app)
    person.open(f"/invite/{token}")
    person.send(f"/invite/{token}", 422, name="", email="nonsense", password="short")
    assert "4 things need" in person.page.text
    good = {"name": "Jo", "email": "jo@example.org", "password": PASSWORD, "agree": "yes"}
    person.send(f"/invite/{token}", **good)
    person.open(f"/invite/{token}", 410)
    second = app.state.accounts.invite("preceptor")
    other = Person(app)
    other.open(f"/invite/{second}")
    other.send(f"/invite/{second}", 409, **good | {"email": "JO@example.org"})
    app.state.accounts.revoke_invite(app.state.accounts.invites()[0]["id"], "preceptor")
    other.open(f"/invite/{second}", 410)


def test_what_was_done_is_in_the_trail(app, admin, labeler):
    admin.open(f"/labelers/{labeler.user.labeler_id}")
    admin.open("/trail")
    for words in ("account made", "signed in", "profile read", "guide changed"):
        assert words in admin.page.text
    assert admin.name in admin.page.text
