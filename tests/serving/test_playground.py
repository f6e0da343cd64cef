"""The playground inside the labelling app: blind answers, votes as comparisons, nothing kept without consent."""

import html
import json
import re
import subprocess

import pytest
import server as servers
from fastapi.testclient import TestClient

from preceptor.config import ServeConfig
from preceptor.intake.releases import freeze
from preceptor.labelling import pages
from preceptor.labelling.app import create_app
from preceptor.labelling.erasure import delete_user
from preceptor.pipeline.web import add_models
from preceptor.serving.pool import Pool
from preceptor.store import Workspace
from preceptor.store.accounts import Accounts
from preceptor.types import Completion, Message


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return servers.make_workspace(tmp_path_factory.mktemp("playground") / "workspace")


@pytest.fixture(scope="module")
def app(workspace):
    """As `preceptor web` puts it together."""
    app = create_app(workspace)
    before = pages.ENV.loader
    add_models(app, workspace, ServeConfig())
    with TestClient(app):  # the models are closed at its end
        yield app
    pages.ENV.loader = before


class Person:
    """A signed-in browser without scripts."""

    def __init__(self, app, workspace, email):
        accounts = Accounts(workspace.store)
        token = accounts.invite("test")
        user = accounts.accept(token, name=email, email=email, password_hash="x", settings={})
        self.id, self.labeler_id = user.id, user.labeler_id
        self.browser = TestClient(app, cookies={"session": accounts.open_session(user.id, "test")})
        self.get("/playground")

    def get(self, path):
        response = self.browser.get(path)
        assert response.status_code == 200, response.text
        self.page = html.unescape(response.text)
        return self.page

    def hidden(self, name):
        return re.search(rf'name="{name}" value="([^"]*)"', self.page)[1]

    def post(self, path, status=200, **fields):
        fields = {"token": self.hidden("token"), "talk": self.hidden("talk")} | fields
        response = self.browser.post(path, data=fields)
        assert response.status_code == status, response.text
        self.page = html.unescape(response.text)
        self.path = response.url.path
        return self.page

    def say(self, text, **more):
        return self.post("/playground/say", say=text, max_tokens="12", mode="pair", **more)


@pytest.fixture
def person(app, workspace, request):
    return Person(app, workspace, f"{request.node.name}@example.org")


def kept(workspace, person):
    return [prompt for prompt in workspace.store.prompts() if prompt.user_id == person.id]


def test_strangers_are_sent_to_sign_in(app):
    response = TestClient(app).get("/playground", follow_redirects=False)
    assert response.status_code == 303
    assert response.headers["location"] == "/sign-in"
    assert TestClient(app).get("/v1/models").status_code == 401
    assert TestClient(app).get("/playground/x", follow_redirects=False).headers["location"] == "/sign-in"
    for path in ("consent", "forget", "say", "stream", "x/vote"):
        assert TestClient(app).post(f"/playground/{path}").status_code == 401, path


def test_a_question_answers_and_a_vote_without_consent_leave_nothing(person, workspace):
    page = person.say("SECRETGIRAFFE, how are you?")
    talk = person.path
    assert page.count('class="answer-sheet"') == 2
    assert not re.search(r"<code>(alpha|beta)</code>", page)
    assert 'name="vote"' in page
    assert 'name="say"' not in page
    page = person.post(f"{talk}/vote", vote="left")
    assert len(re.findall(r"<code>(?:alpha|beta)</code>", page)) == 2
    assert "The vote is not stored." in page
    assert kept(workspace, person) == []
    found = subprocess.run(["grep", "-rla", "SECRETGIRAFFE", str(workspace.root)], capture_output=True, text=True)
    assert found.stdout == ""


@pytest.mark.parametrize(("vote", "ranks"), [("left", (1, 2)), ("right", (2, 1)), ("tie", (1, 1)), ("bad", (1, 1))])
def test_with_consent_a_vote_is_a_ranking_of_the_two_answers(person, workspace, vote, ranks):
    assert 'name="consent" value="yes">' in person.page  # off by default
    page = person.post("/playground/consent", consent="yes")
    assert 'name="consent" value="yes" checked>' in page
    page = person.say(f"What would a person who says {vote} eat?", seed="4")
    person.post(f"{person.path}/vote", vote=vote)
    assert "The vote is stored as a comparison." in person.page
    (prompt,) = kept(workspace, person)
    assert prompt.meta == {"from": "playground", "consent": "playground-1"}
    (ranking,) = [ranking for ranking, of in workspace.store.rankings() if of.id == prompt.id]
    assert (ranking.ranks, ranking.labeler_id, ranking.rubric) == (ranks, person.labeler_id, "playground")
    stored = {one.id: one for one in workspace.store.completions(prompt_id=prompt.id)}
    left, right = (stored[key] for key in ranking.completion_ids)
    named = re.search(r"Left was <code>(\w+)</code>, right was <code>(\w+)</code>", person.page)
    assert (left.model_id.split("@")[0], right.model_id.split("@")[0]) == named.groups()
    person.post(f"{person.path.removesuffix('/vote')}/vote", vote="left")  # a second vote changes nothing
    assert len([1 for _, of in workspace.store.rankings() if of.id == prompt.id]) == 1
    person.post("/playground/consent")
    assert 'name="consent" value="yes">' in person.page
    person.say("Said after the consent was taken back")
    assert len(kept(workspace, person)) == 1


def test_the_next_turn_waits_for_the_vote(person):
    person.say("First question")
    talk = person.path
    key = talk.rsplit("/", 1)[1]
    page = person.post("/playground/say", 400, say="Second question", talk=key, mode="pair")
    assert "Vote on the last two answers first" in page
    person.post(f"{talk}/vote", vote="right")
    page = person.say("Second question")
    assert page.count('class="turn"') == 2
    assert "First question" in person.get("/playground")  # the history


def test_one_model_by_name_has_no_vote(person):
    person.get("/playground?mode=one")
    page = person.post("/playground/say", say="Hello", mode="one", first="alpha", max_tokens="5")
    assert page.count('class="answer-sheet"') == 1
    assert "<code>alpha</code>" in page
    assert 'name="vote"' not in page
    assert 'name="say"' in page


def test_wrong_settings_and_empty_messages_are_told(person):
    for fields, words in [
        ({"say": "  "}, "There is no message yet"),
        ({"say": "x", "temperature": "hot"}, "are numbers"),
        ({"say": "x", "temperature": "3"}, "from 0 to 2"),
        ({"say": "x", "max_tokens": "0"}, "from 1 to 2048"),
        ({"say": "x", "first": "alpha", "second": "alpha"}, "two different models"),
    ]:
        assert words in person.post("/playground/say", 400, **fields)
    assert "a<b>" in person.post("/playground/say", 400, say="a<b>", temperature="9")  # what was typed is still there


def test_another_persons_conversation_is_not_shown(app, workspace, person):
    person.say("Mine alone")
    other = Person(app, workspace, f"other-{person.id}@example.org")
    response = other.browser.get(person.path, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/playground")


def test_a_form_without_its_token_is_refused(person):
    assert person.browser.post("/playground/say", data={"say": "x"}).status_code == 403
    assert person.browser.post("/playground/consent", data={"consent": "yes"}).status_code == 403


def test_the_stream_shows_both_sides_at_one_pace(person):
    fields = {"token": person.hidden("token"), "talk": "", "say": "Tell me", "max_tokens": "40", "mode": "pair"}
    shown = {"left": "", "right": ""}
    with person.browser.stream("POST", "/playground/stream", data=fields) as response:
        for line in response.iter_lines():
            news = json.loads(line.removeprefix("data: ")) if line else {}
            for side in shown:
                shown[side] += news.get(side, "")
            if "done" in news:
                done = news["done"]
    page = person.get(done)
    sides = re.findall(r'class="matter close">(.*?)</div>', page, re.DOTALL)
    plain = [re.sub(r"<br>|</?p>|\s", "", side) for side in sides]
    assert plain == [re.sub(r"\s", "", shown[side]) for side in ("left", "right")]
    assert not re.search(r"<code>(alpha|beta)</code>", page)


def test_the_page_keeps_to_the_content_security_policy(person):
    page = person.say("Look at me")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=\"/)", page)
    assert person.browser.get("/playground/playground.js").status_code == 200


def test_a_person_deletes_what_they_sent(person, workspace):
    person.post("/playground/consent", consent="yes")
    person.say("Tell me of WOMBATSUPERNOVA, please")
    person.post(f"{person.path}/vote", vote="left")
    (prompt,) = kept(workspace, person)
    # The account's id is drawn, and with it the split.
    release = workspace.root / freeze(workspace, "prompts", split=prompt.split, name="with-wombats").path
    assert "WOMBATSUPERNOVA" in release.read_text()
    person.post("/playground/forget")  # without the tick nothing goes
    assert len(kept(workspace, person)) == 1
    page = person.post("/playground/forget", sure="yes")
    assert "Deleted." in page
    assert 'name="consent" value="yes">' in page
    assert kept(workspace, person) == []
    assert "WOMBATSUPERNOVA" not in release.read_text()
    assert "WOMBATSUPERNOVA" not in person.get("/playground")  # the history
    assert [one for one in workspace.store.completions() if "WOMBATSUPERNOVA" in one.text] == []
    person.post("/playground/consent", consent="yes")
    person.say("Tell me of WOMBATSUPERNOVA, please")  # no ghost of the first one calls it a duplicate
    assert len(kept(workspace, person)) == 1


def test_a_user_of_the_api_is_deleted_by_their_identifier(workspace):
    said = (Message(role="user", content="What do NUMBATECLIPSE eat?"),)
    outcome, prompt = Pool(workspace).offer(said, "h4sh", {"from": "api"})
    assert outcome == "kept"
    workspace.store.add_completions([Completion.of(prompt.id, "alpha@1", "termites")])
    release = workspace.root / freeze(workspace, "prompts", name="with-numbats").path
    assert "NUMBATECLIPSE" in release.read_text()
    found = delete_user(workspace, "h4sh", "admin")
    assert found.rows == {"completions": 1, "prompts": 1}
    assert "with-numbats" in found.releases
    assert "NUMBATECLIPSE" not in release.read_text()
    assert not [one for one in workspace.store.prompts() if one.user_id == "h4sh"]


def test_what_was_deleted_elsewhere_is_no_duplicate(workspace):
    pool = Pool(workspace)

    def offer(text: str, user: str) -> str:
        return pool.offer((Message(role="user", content=text),), user, {})[0]

    letter = "Please write a letter: " + " ".join(f"the {number}th heater upstairs is broken," for number in range(20))
    assert offer(letter, "one") == "kept"
    nearly = "Would you p" + letter[1:]
    assert [offer(nearly, "two"), offer(nearly.upper(), "three")] == ["duplicate", "duplicate"]
    before = pool.alike
    assert offer(nearly, "two") == "duplicate"
    assert pool.alike is before  # what was refused is not remembered, so nothing had to be read anew
    delete_user(Workspace(workspace.root), "one", "admin")
    assert offer(letter.upper(), "two") == "kept"
