"""Something on every page: what the tests with a browser show in the pictures."""

from preceptor.labelling.records import rows_of
from preceptor.store.queues import Queue
from preceptor.store.set_aside import Held, hold
from preceptor.types import FLAGS, Prompt


def researcher_pages(live) -> dict[str, str]:
    """Name -> address of every page a researcher or admin sees."""
    state = live.app.state
    queue = state.queues.queues()[0].id
    task = next(iter(state.oversight.several_opinions()))
    person = next(user for user in state.accounts.users() if user.state == "active" and user.role == "labeler")
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
        for step in range(4):
            item = state.queues.take(window.user.labeler_id, "rank", cohort="training", trial=False, queue_id="w_r")
            submit_ranking(state, window.user, item, number, step)


def submit_ranking(state, user, item: str, number: int, step: int) -> None:
    """The ranking of person `number` for their item `step`: mostly by length, now and then by a taste of their own."""
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
        rows=rows_of(found, user.labeler_id, fields),
        rubric="training-1",
        spent=None,
    )


def screen_somebody(live) -> None:
    """A round that a researcher answered and a candidate took part in."""
    state = live.app.state
    cuts = {"cut_flags": 0.75, "cut_rankings": 0.75, "cut_demonstrations": 6.0}
    round_ = state.screenings.create("June", topics=["health", "law and money"], **cuts)
    common = {"rubric": "training-1", "screening_id": round_, "overlap_share": 1.0, "overlap_labels": 100}
    for kind in ("rank", "demonstration"):
        state.queues.create(Queue(id=f"w_s{kind}", name=f"June: {kind}", kind=kind, k_max=5, **common))
    link = state.accounts.invite("preceptor", screening_id=round_)
    candidate = state.accounts.accept(
        link, name="Kim Lee", email="kim@hallam.example", password_hash="none", settings={}
    )
    state.screenings.set_topics(round_, candidate.labeler_id, ["health"])
    researcher = next(user for user in state.accounts.users() if user.researches)
    for number, user in enumerate((researcher, candidate)):
        for step in range(3):
            way = {"cohort": "training", "trial": True, "anywhere": user.researches, "queue_id": "w_srank"}
            submit_ranking(state, user, state.queues.take(user.labeler_id, "rank", **way), number, step)
    item = state.queues.take(candidate.labeler_id, "demonstration", cohort="training", trial=True)
    fields = {"answer": "Rub it on a flat stone until the scratches all run one way."}
    rows = rows_of(state.labelling.assignment(item, candidate.labeler_id), candidate.labeler_id, fields)
    own = {"key": "d", "kind": "demonstration", "body": {"fields": fields}, "rubric": "training-1"}
    done = state.labelling.submit(item, candidate.labeler_id, rows=rows, **own)
    state.screenings.score(done.id, researcher.id, 6)


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
