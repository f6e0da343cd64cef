"""People at a real browser: every journey once, once with the keyboard alone, once at phone size; axe on every page."""

import os
from pathlib import Path

import pytest
from browsing import PATIENCE, PHONE, SMALL, WIDE, Window, choose, make_queues, rate_by_mouse
from persons import CHROMIUM, PASSWORD, RATING, attack_a_model
from showcase import label_something, researcher_pages, screen_somebody, set_something_aside

from preceptor.labelling.questions import GROUPS
from preceptor.store.queues import Queue

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine"),
]


def test_from_the_invitation_to_the_export(chromium, live):
    """Admin -> researcher -> screening round -> candidate -> admitted -> ranking with ties -> agreement -> export."""
    state = live.app.state
    admin = Window(chromium, live).join("Ines Moreau", "admin")
    page = admin.page
    page.goto("/queues/new?kind=rank")
    page.get_by_label("Name of the queue").fill("Rank, customers’ prompts")
    page.get_by_label("Share seen by several people, %").fill("100")
    page.get_by_label("Most answers (K)").fill("5")
    page.get_by_role("button", name="Make the queue").click()
    page.wait_for_url("**/queues/w_*")

    page.goto("/screening")
    page.get_by_label("Name", exact=True).fill("June")
    page.get_by_label("Prompts of the split").select_option("any")
    page.get_by_role("button", name="Make the round").click()
    page.wait_for_url("**/screening/k_*")
    for _ in range(1):  # the researcher's own answers are what candidates are held against
        page.get_by_role("button", name="Answer it yourself").first.click()
        rate_by_mouse(page)
        task = state.labelling.assignment(page.url.split("/")[-2], state.accounts.users()[0].labeler_id)
        gold = {completion.id: rank for completion, rank in zip(task.completions, (1, 2, 2, 3, 4))}
        for letter, completion in zip("ABCDE", task.completions):
            choose(page, f"{letter}.rank", f"{gold[completion.id]}")
        page.get_by_role("button", name="Submit the ranking").click()
        page.wait_for_url("**/home*")

    page.goto("/labelers")
    page.get_by_label("E-mail").fill("jonas@hallam.example")
    page.get_by_label("Screening round").select_option(label="June")
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("#fresh-link").input_value()

    labeler = Window(chromium, live)
    labeler.accept(link, "Jonas Weber")
    work = labeler.page
    work.get_by_label("health").check()
    work.get_by_role("button", name="Save my choice").click()
    work.get_by_role("button", name="Save", exact=True).wait_for()
    work.get_by_role("button", name="Start Rate and rank").click()
    rate_by_mouse(work)
    user = next(user for user in state.accounts.users() if user.name == "Jonas Weber")
    found = state.labelling.assignment(work.url.split("/")[-2], user.labeler_id)
    assert found.prompt.id == task.prompt.id
    for letter, completion in zip("ABCDE", found.completions):
        choose(work, f"{letter}.rank", f"{gold[completion.id]}")
    assert work.locator("[data-unranked]").inner_text() == "All ranked"
    work.get_by_role("button", name="Submit the ranking").click()
    work.wait_for_url("**/home*")
    work.get_by_role("button", name="Start Write a demonstration").click()
    work.get_by_label("Your answer").fill("Rub the back on a flat stone.")
    labeler.saved()
    work.get_by_role("button", name="Submit the answer").click()
    work.wait_for_url("**/home*")
    assert list(state.workspace.store.rankings()) == []  # trial work trains nothing

    page.goto("/screening")
    page.get_by_role("link", name="June").click()
    choose(page, "score", "6")
    with page.expect_navigation():  # to the same address
        page.get_by_role("button", name="Save the score").click()
    text = page.locator("main").inner_text()
    assert "100 %" in text
    assert "6.0" in text
    page.locator("summary", has_text="Decide").click()
    with page.expect_navigation():
        page.get_by_role("button", name="Admit").click()
    assert state.accounts.user(user.id).state == "active"

    second = Window(chromium, live).join("Amara Obi")
    orders = {}
    for window, ranks in ((labeler, "11234"), (second, "43211")):
        window.page.goto("/home")
        window.page.get_by_role("button", name="Start Rate and rank").click()
        rate_by_mouse(window.page)
        item = window.page.url.split("/")[-2]
        for letter, rank in zip("ABCDE", ranks):
            choose(window.page, f"{letter}.rank", f"{rank}")
        window.page.get_by_role("button", name="Submit the ranking").click()
        window.page.wait_for_url("**/home*")
        orders[item] = tuple(map(int, ranks))
    kept = {ranking.ranks for ranking, _ in state.workspace.store.rankings()}
    assert kept == set(orders.values())

    page.goto("/agreement")
    assert "pairs" in page.locator("main").inner_text()
    page.goto("/review")
    page.get_by_role("link", name="Open ").first.click()
    page.wait_for_url("**/review/*")
    assert page.locator("tbody tr").count() == 2
    page.goto("/export")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download rankings").click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert len(lines) == 2
    for window in (admin, labeler, second):
        window.close()


def test_with_the_keyboard_alone(chromium, live):
    """From the home page to a submitted ranking with a tie; the mouse is never used."""
    make_queues(live)
    window = Window(chromium, live).join("Amara Obi")
    page = window.page
    page.wait_for_url("**/home")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("1")
    for letter in "ABCDE":
        page.wait_for_url(f"**/rate/{letter}")
        page.keyboard.press("5")
        page.keyboard.press("j")
        page.keyboard.press("y")
        for _ in range(10):
            page.keyboard.press("n")
        page.keyboard.press("Control+Enter")
    page.wait_for_url("**/rank")
    for keys in ("a2", "b1", "c=", "d4", "e3"):
        for key in keys:
            page.keyboard.press(key)
    page.keyboard.press("0")
    assert page.locator("[data-unranked]").inner_text() == "Unranked: E"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#problems:focus")
    page.keyboard.press("e")
    page.keyboard.press("5")
    assert page.locator("[data-order]").inner_text().split() == [
        "1",
        "best",
        "B=C",
        "2",
        "A",
        "3",
        "–",
        "4",
        "D",
        "5",
        "E",
    ]
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/home*")
    ((ranking, _),) = live.app.state.workspace.store.rankings()
    assert ranking.ranks == (2, 1, 1, 4, 5)

    page.keyboard.press("2")  # a demonstration, by Tab alone
    page.wait_for_url("**/work/a_*")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "answer":
            break
    page.keyboard.type("Written 1 by 2 keys.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/home*")
    ((made, _),) = live.app.state.workspace.store.demonstrations()
    assert made.text == "Written 1 by 2 keys."
    window.close()


def test_a_screen_reader_is_told_what_each_control_is(chromium, live):
    """Name and description of every control as Chromium hands them to a screen reader, and what is said by itself."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    make_queues(live)
    person = Window(chromium, live).join("Amara Obi")
    page = person.page
    page.get_by_role("button", name="Start Rate and rank").click()
    page.wait_for_url("**/rate/A")
    good = page.get_by_role("group", name="How good is it, all in all?")
    expect(good).to_have_accessible_description("1 · no use 4 · usable with changes 7 · could not be better")
    assert good.get_by_role("radio").count() == 7
    for question in (question for _, group in GROUPS for question in group):
        group = page.get_by_role("group", name=question.name, exact=True)
        expect(group).to_have_accessible_description(question.definition)
        assert [choice.get_attribute("value") for choice in group.get_by_role("radio").all()] == ["yes", "no"]
    expect(page.get_by_role("status")).to_have_text("Nothing to save yet")
    rate_by_mouse(page)
    for letter in "ABCDE":
        article = page.get_by_role("article", name=letter, exact=True)
        ranks = article.get_by_role("group", name=f"Rank of answer {letter}").get_by_role("radio")
        assert [rank.get_attribute("value") for rank in ranks.all()] == list("12345")
    unranked = page.get_by_role("status").filter(has_text="Unranked")
    expect(unranked).to_have_text("Unranked: A, B, C, D, E")
    choose(page, "B.rank", "1")
    expect(unranked).to_have_text("Unranked: A, C, D, E")
    nameless = "[...document.querySelectorAll('main button, main a, main input:not([type=hidden]), main textarea')]"
    assert (
        page.evaluate(f"{nameless}.filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length") == 0
    )
    person.close()


def test_an_attack_is_judged_with_the_keyboard_alone(chromium, live):
    state = live.app.state
    attack_a_model(state.workspace.store)
    own = {"kind": "red-team", "rubric": "evaluation-1", "models": ("ppo",), "k_min": 1, "k_max": 1}
    state.queues.create(Queue(id="w_a", name="Attacks", **own))
    window = Window(chromium, live).join("Amara Obi")
    page = window.page
    user = next(user for user in state.accounts.users() if user.name == window.name)
    item = state.queues.take(user.labeler_id, "red-team", cohort="training", trial=False)
    page.goto(f"/work/{item}")
    page.keyboard.press("2")  # refused
    window.saved()
    page.locator("input[name='A.satisfies_constraint'][value='none-set']").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Answer No to the rest").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**#answer-A")
    assert page.locator("input[name='A.verdict'][value='refused']").is_checked()
    page.locator("#attack-text").focus()
    page.keyboard.type("Once more, as a poem. 1 2 3")  # digits are text here
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/home*")
    (opinion,) = state.oversight.opinions(kinds=("red-team",))
    assert (opinion.fields["A.verdict"], opinion.fields["attack"]) == ("refused", "Once more, as a poem. 1 2 3")
    window.close()


def test_single_keys_can_be_switched_off(chromium, live):
    make_queues(live)
    window = Window(chromium, live).join("Amara Obi")
    window.page.goto("/settings")
    window.page.get_by_label("Single-key shortcuts").select_option("off")
    window.page.get_by_role("button", name="Save the settings").click()
    window.page.get_by_text("Saved.").wait_for()
    window.page.goto("/home")
    window.page.keyboard.press("1")
    window.page.keyboard.press("?")
    assert not window.page.locator("#keys").is_visible()
    assert window.page.url.endswith("/home")
    window.close()


def test_on_a_phone(chromium, live):
    """Rate, rank with ties, skip, at 390 pixels with touch: nothing scrolls sideways, targets are large."""
    make_queues(live)
    window = Window(chromium, live, PHONE, has_touch=True, is_mobile=True).join("Amara Obi")
    page = window.page
    page.get_by_role("button", name="Start Rate and rank").tap()
    for letter in "ABCDE":
        page.wait_for_url(f"**/rate/{letter}")
        assert not window.wider_than_screen()
        page.locator(f"label:has(input[name='{letter}.quality'][value='4'])").tap()
        page.locator(f"label:has(input[name='{letter}.satisfies_constraint'][value='yes'])").tap()
        page.get_by_role("button", name="Answer No to the rest").tap()
        page.wait_for_url("**#note")
        page.locator("[data-submit]").tap()
    page.wait_for_url("**/rank")
    assert not window.wider_than_screen()
    assert page.evaluate(f"{SMALL}.length") == 0
    for letter, rank in zip("ABCDE", "11222"):
        page.locator(f"label:has(input[name='{letter}.rank'][value='{rank}'])").tap()
    page.get_by_role("button", name="Submit the ranking").tap()
    page.wait_for_url("**/home*")
    ((ranking, _),) = live.app.state.workspace.store.rankings()
    assert ranking.ranks == (1, 1, 2, 2, 2)
    page.get_by_role("button", name="Start Rate and rank").tap()
    page.wait_for_url("**/rate/A")
    page.get_by_role("link", name="Skip …").tap()
    page.wait_for_url("**/skip")
    assert not window.wider_than_screen()
    page.get_by_label("I lack the knowledge").check()
    page.get_by_role("button", name="Skip it").tap()
    page.wait_for_url("**/home*")
    window.close()


def test_drafts_survive_a_closed_tab_and_a_server_that_is_away(chromium, live):
    make_queues(live)
    window = Window(chromium, live).join("Amara Obi")
    page = window.page
    page.get_by_role("button", name="Start Write a demonstration").click()
    page.get_by_label("Your answer").fill("first words")
    window.saved()
    item = page.url.split("/")[-1].split("?")[0]
    assert live.app.state.labelling.draft(item).fields["answer"] == "first words"
    page.get_by_label("Your answer").fill("first words and the last ones")
    page.close(run_before_unload=False)  # at once: before the autosave's delay is over
    page = window.page = window.context.new_page()
    page.goto(f"/work/{item}")
    assert page.get_by_label("Your answer").input_value().startswith("first words")
    window.context.set_offline(True)
    page.get_by_label("Your answer").fill("typed while away")
    page.wait_for_selector("#saved.failed")
    assert page.locator("#unsaved").is_visible()
    window.context.set_offline(False)
    page.wait_for_selector("#unsaved", state="hidden", timeout=PATIENCE)
    assert live.app.state.labelling.draft(item).fields["answer"] == "typed while away"
    window.troubles = [
        line for line in window.troubles if "ERR_INTERNET_DISCONNECTED" not in line and "htmx" not in line
    ]
    window.close()


def test_a_session_that_ended_while_somebody_wrote_costs_no_words(chromium, live):
    make_queues(live)
    accounts, window = live.app.state.accounts, Window(chromium, live).join("Amara Obi")
    page = window.page
    page.get_by_role("button", name="Start Write a demonstration").click()
    page.wait_for_url("**/work/a_*")
    user = next(user for user in accounts.users() if user.name == "Amara Obi")
    accounts.revoke_session(accounts.sessions(user.id)[0]["id"], "test")
    page.get_by_label("Your answer").fill("nobody saw this yet")
    page.get_by_text("You are signed out. Sign in again in another tab").wait_for()
    other = window.context.new_page()
    other.goto("/sign-in")
    other.get_by_label("E-mail").fill(user.email)
    other.get_by_label("Password").fill(PASSWORD)
    other.locator("button.primary").click()
    other.wait_for_url("**/home")
    page.wait_for_selector("#unsaved", state="hidden")
    page.get_by_role("button", name="Submit the answer").click()
    page.wait_for_url("**/home*")
    ((made, _),) = live.app.state.workspace.store.demonstrations()
    assert made.text == "nobody saw this yet"
    window.troubles = [line for line in window.troubles if "401" not in line]
    window.close()


def test_dragging_is_an_extra_that_sets_the_same_ranks(chromium, live):
    make_queues(live)
    state, window = live.app.state, Window(chromium, live).join("Amara Obi")
    user = next(u for u in state.accounts.users() if u.name == "Amara Obi")
    item = state.queues.take(user.labeler_id, "rank", cohort="training", trial=False)
    found = state.labelling.assignment(item, user.labeler_id)
    letters = "ABCDE"[: len(found.completions)]
    rated = {f"{letter}.{name}": value for letter in letters for name, value in RATING.items()}
    rated |= {f"{letter}.quality": "4" for letter in letters}
    own = {"page": "rate/A", "tab": "t", "revision": 0}
    state.labelling.save_draft(item, user.labeler_id, **own, fields=rated)
    page = window.page
    page.goto(f"/work/{item}/rank")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # Playwright scrolls to the strip, which loses a drag
    for letter, rank in zip(letters, "12233"):
        page.locator(f"#answer-{letter} .label-line").drag_to(page.locator(f"[data-order] li[data-rank='{rank}']"))
    assert page.locator("[data-unranked]").inner_text() == "All ranked"
    assert page.locator("[data-order] li[data-rank='2'] [data-who]").inner_text() == "B=C"
    page.click("[data-submit]")
    page.wait_for_url("**/home*")
    (ranking,) = [ranking for ranking, _ in live.app.state.workspace.store.rankings()]
    assert ranking.ranks == tuple(int(rank) for rank, _ in zip("12233", letters))
    window.close()


@pytest.mark.slow
def test_every_page_passes_axe_and_is_kept_as_a_picture(chromium, live):
    """Serious faults: none, in both themes and at both widths. With PRECEPTOR_PICTURES=DIR pictures go there."""
    make_queues(live)
    state, admin = live.app.state, Window(chromium, live).join("Ines Moreau", "admin")
    screen_somebody(live)
    people = [Window(chromium, live).join(name) for name in ("Amara Obi", "Jonas Weber")]
    for window in people:
        window.user = next(u for u in state.accounts.users() if u.name == window.name)
    label_something(live, people)
    set_something_aside(live)
    attack_a_model(state.workspace.store)
    state.queues.create(Queue(id="w_a", name="Attacks", kind="red-team", rubric="evaluation-1", k_min=1, k_max=1))
    item = lambda kind: state.queues.take(people[0].user.labeler_id, kind, cohort="training", trial=False)  # noqa: E731
    ranked = state.queues.take(people[0].user.labeler_id, "rank", cohort="training", trial=False)
    found = state.labelling.assignment(ranked, people[0].user.labeler_id)
    fields = {f"{letter}.{name}": value for letter in "ABCDE" for name, value in RATING.items()}
    fields |= {f"{letter}.quality": str(3 + place) for place, letter in enumerate("ABCDE")}
    fields |= {"A.rank": "2", "B.rank": "1", "C.rank": "1"}
    own = {"page": "rank", "tab": "t", "revision": 0}
    state.labelling.save_draft(found.id, found.labeler_id, **own, fields=fields)
    labeler_pages = {
        "home": "/home",
        "rate": f"/work/{ranked}/rate/C",
        "rank": f"/work/{ranked}/rank",
        "demonstration": f"/work/{item('demonstration')}",
        "compare": f"/work/{item('compare')}",
        "toxicity": f"/work/{item('toxicity')}",
        "red-team": f"/work/{item('red-team')}",
        "prompt": f"/work/{item('prompt')}",
        "skip": f"/work/{ranked}/skip",
        "history": "/history",
        "guide": "/guide",
        "settings": "/settings",
        "missing": "/nothing-here",
    }
    visitor = Window(chromium, live)
    invite = f"/invite/{state.accounts.invite('preceptor')}"
    folder = os.environ.get("PRECEPTOR_PICTURES", "")
    faults, wide = [], []
    for window, pages in (
        (visitor, {"sign-in": "/sign-in", "invite": invite}),
        (people[0], labeler_pages),
        (admin, researcher_pages(live)),
    ):
        for name, address in pages.items():
            for size, theme in ((WIDE, "light"), (PHONE, "dark"), (WIDE, "dark"), (PHONE, "light"))[
                : 4 if folder else 2
            ]:
                window.page.set_viewport_size(size)
                window.page.emulate_media(color_scheme=theme)
                window.page.goto(address)
                faults += window.serious()
                if window.wider_than_screen():
                    wide.append((name, size["width"]))
                if folder:
                    window.page.screenshot(path=f"{folder}/{name}-{size['width']}-{theme}.png", full_page=True)
    assert faults == []
    assert wide == []
    people[0].troubles = [line for line in people[0].troubles if "status of 404" not in line]
    for window in (visitor, admin, *people):
        window.close()
