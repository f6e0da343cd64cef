"""Something on every page: what the tests with a browser show in the pictures."""

from preceptor.labelling.records import rows_of
from preceptor.store.set_aside import Held, hold
from preceptor.types import FLAGS, Prompt


def researcher_pages(live) -> dict[str, str]:
    """Name -> address of every page a researcher or admin sees."""
    state = live.app.state
    queue = state.queues.queues()[0].id
    task = next(iter(state.oversight.several_opinions()))
    person = next(user for user in state.accounts.users() if user.role == "labeler")
    round_ = state.screenings.screenings()[0]["id"]
    return {
        "round": "/round",
        "queues": "/queues",
        "queue-new": "/queues/new?kind=rank",
        "queue": f"/queues/{queue}",
        "labelers": "/labelers",
        "labeler": f"/labelers/{person.labeler_id}",
        "screenings": "/screening",
        "screening": f"/screening/{round_}",
        "guides": "/rubrics",
        "review": "/review",
        "review-item": f"/review/{task}",
        "set-aside": "/set-aside",
        "agreement": "/agreement",
        "export": "/export",
        "accounts": "/accounts",
        "trail": "/trail",
        "erase": "/erase?who=c-1",
        "poisoning": "/labelers/screen",
    }


def label_something(live, windows) -> None:
    """Two people rank a few items through the store's own door, so that the dashboard has something to show."""
    state = live.app.state
    for number, window in enumerate(windows):
        user = window.user
        for step in range(4):
            item = state.queues.take(user.labeler_id, "rank", cohort="training", trial=False, queue_id="w_r")
            found = state.labelling.assignment(item, user.labeler_id)
            fields = {}
            for place, (letter, completion) in enumerate(zip("ABCDE", found.completions)):
                quality = 1 + (len(completion.text) + number * (step % 2) * 3 + place * (step == 2)) % 7
                fields |= {f"{letter}.quality": str(quality), f"{letter}.rank": str(1 + (7 - quality) % 5)}
                fields |= {f"{letter}.{flag}": "yes" if (place + len(flag)) % 6 == 0 else "no" for flag in FLAGS}
            state.labelling.submit(
                item,
                user.labeler_id,
                key=f"k{step}",
                kind="rank",
                body={"fields": fields},
                rows=rows_of(found, user, fields),
                rubric="training-1",
                spent=None,
            )


def set_something_aside(live) -> None:
    texts = (
        ("personal data", "it has personal data: email", "Write to ana@example.org that the chisel came blunt."),
        ("language", "its language seems to be de", "Wie schärfe ich das Eisen, wenn der Stein schon hohl ist?"),
        ("length", "the prompt is longer than 1000 tokens (estimated)", "Summarise this manual.\n\n" + "Hone. " * 900),
    )
    with live.app.state.workspace.store.write() as connection:
        held = [
            Held(prompt=Prompt.of(text, user_id="c-9"), reason=reason, detail=detail, origin="asked.jsonl")
            for reason, detail, text in texts
        ]
        hold(connection, held)
