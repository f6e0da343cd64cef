"""The dashboard of a round: what is done, how fast, how well people agree."""

from collections import defaultdict
from datetime import timedelta
from statistics import median

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.labelling import figures
from preceptor.labelling.access import Researcher
from preceptor.labelling.measures import FEW_PAIRS, RARE
from preceptor.labelling.pages import Blank, local, render
from preceptor.labelling.questions import KIND_NAMES, QUESTIONS

router = APIRouter()
DAYS = 28


@router.get("/round")
def dashboard(request: Request, user: Researcher) -> Response:
    state = request.app.state
    now = state.accounts.now()
    work = [row for row in state.oversight.work(now - DAYS * 86400) if row[1] not in ("skip", "report")]
    queues, progress = state.queues.queues(), state.queues.progress()
    measures = state.meter.read()
    names = state.oversight.labeler_names()
    people = [about for about in names.values() if about["role"] == "labeler"]
    return render(
        request,
        "round.html",
        queues=queues,
        progress=progress,
        needs=needs(queues, progress, work, now),
        figure=figures.throughput(per_day(work, now)),
        last_week=sum(at > now - 7 * 86400 for *_, at in work),
        week_before=sum(now - 14 * 86400 < at <= now - 7 * 86400 for *_, at in work),
        usual=Blank(usual_times(work)),
        measures=measures,
        agreement=figures.agreement(measures.groups),
        dot=figures.dot,
        mean=measures.groups["All labelers"].value,
        trail=[line for line in state.accounts.trail(12) if line["action"] != "signed in"][:5],
        actor_names=Blank(actor_names(request)),
        training=sum(about["cohort"] == "training" for about in people),
        held_out=sum(about["cohort"] == "held-out" for about in people),
        names=KIND_NAMES,
        questions_by_key=QUESTIONS,
        few=FEW_PAIRS,
        rare=RARE,
        halted=len(state.queues.halted()),
    )


def actor_names(request: Request) -> dict[str, str]:
    """User id -> what to call them on a researcher's page: labelers by pseudonym, the others by name."""
    return {user.id: user.name if user.researches else user.pseudonym for user in request.app.state.accounts.users()}


def per_day(work, now: float) -> list[figures.Day]:
    counts = defaultdict(lambda: [0, 0])
    for _, kind, _, at in work:
        counts[local(at).date()][kind not in ("rank", "compare")] += 1
    today = local(now).date()
    days = [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]
    return [(day, *counts[day]) for day in days]


def usual_times(work) -> dict[str, float]:
    """Kind -> median seconds on task."""
    times = defaultdict(list)
    for _, kind, seconds, _ in work:
        times[kind].append(seconds)
    return {kind: median(values) for kind, values in times.items()}


def needs(queues, progress, work, now: float) -> list[dict]:
    """Open queues that have a target: how far they are, and days left at the pace of the last seven days."""
    pace = defaultdict(float)
    for _, kind, _, at in work:
        if at > now - 7 * 86400:
            pace[kind] += 1 / 7
    lines = []
    for queue in queues:
        if not queue.target or queue.state != "open":
            continue
        done = progress[queue.id]["done"]
        left = max(0, queue.target - done)
        days = left / pace[queue.kind] if left and pace[queue.kind] else None
        lines.append({"queue": queue, "done": done, "left": left, "days": days})
    return lines
