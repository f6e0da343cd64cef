"""The machine's clock is set while people work: nobody loses work, and nothing opens that should be shut."""

import pytest
from persons import fields_of, join
from test_work import begin, queue

from preceptor.store.accounts import SESSION_SECONDS, Accounts

DAY = 86400.0


@pytest.mark.parametrize("jump", [-400 * DAY, -3600.0, 3600.0, 13 * DAY])
def test_work_goes_on_over_a_jump(jump, timed, workspace, clock):
    queue(timed, "demonstration")
    person = join(timed)
    item = begin(person, "demonstration")
    form = fields_of(person.page.text)
    clock.time += 60
    person.client.post(f"/work/{item}/draft/demonstration", data=form | {"answer": "before"})
    clock.time += jump
    person.open(f"/work/{item}")
    assert fields_of(person.page.text)["answer"] == "before"
    person.client.post(f"/work/{item}", data=form | {"answer": "after"})
    ((made, _),) = workspace.store.demonstrations()
    assert made.text == "after"
    assert 0 <= made.seconds <= 60 + max(0.0, jump)


def test_a_session_ends_with_its_time_however_the_clock_went(timed, workspace, clock):
    person, accounts = join(timed), Accounts(workspace.store, clock)
    user = person.user.id
    clock.time += 300 * DAY  # forward: it has ended
    assert accounts.sessions(user) == []
    clock.time -= 300 * DAY  # set right: it lives again, for it was never ended
    assert person.open("/home").status_code == 200
    clock.time += 10 * DAY  # in use while the clock is wrong
    assert person.open("/home").status_code == 200
    clock.time -= 10 * DAY  # it is not longer alive than from its last use
    assert person.open("/home").status_code == 200
    (session,) = accounts.sessions(user)
    assert session["expires_at"] == clock.time + SESSION_SECONDS
    clock.time += SESSION_SECONDS + 1
    assert accounts.sessions(user) == []


@pytest.mark.parametrize("jump", [-400 * DAY, 400 * DAY])
def test_an_invitation_that_was_used_stays_used(jump, timed, workspace, clock):
    accounts = Accounts(workspace.store, clock)
    admin = join(timed, "admin").user.id
    link = accounts.invite(role="labeler", made_by=admin)
    assert accounts.find_invite(link) is not None
    accounts.revoke_invite(accounts.find_invite(link)["id"], admin)
    clock.time += jump
    assert accounts.find_invite(link) is None
