"""What waits for the next round: prompts nobody ranked, items in labelers' queues, rankings since a release."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from preceptor.store.schema import demonstrations, prompts, rankings, releases
from preceptor.store.schema_labelling import queues, tasks
from preceptor.store.store import Store

VOTES = "playground"  # rubric of the playground's votes: two answers, no ranking of K


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """`prompts`: id -> where it came from (api, playground, or the source). `items`: open in rank queues, not ranked.
    `rankings`: of labelers, on prompts of the train split, stored since the newest release of rankings."""

    prompts: Mapping[str, str]
    items: int
    rankings: int

    @property
    def sources(self) -> dict[str, int]:
        """Waiting prompts by where they came from."""
        names = sorted(set(self.prompts.values()))
        return {name: sum(source == name for source in self.prompts.values()) for name in names}


def waiting(store: Store) -> Waiting:
    """Consented prompts of the train split without demonstration, without a labeler's ranking, and in no rank queue."""
    ranked = select(rankings.c.id).where(rankings.c.prompt_id == prompts.c.id, rankings.c.rubric != VOTES)
    written = select(demonstrations.c.id).where(demonstrations.c.prompt_id == prompts.c.id)
    queued = select(tasks.c.id).join(queues, tasks.c.queue_id == queues.c.id)
    queued = queued.where(tasks.c.prompt_id == prompts.c.id, queues.c.kind == "rank")
    new = select(prompts.c.id, prompts.c.source, prompts.c.meta).where(
        prompts.c.consent.is_(True), prompts.c.split == "train", ~ranked.exists(), ~written.exists(), ~queued.exists()
    )
    open_items = select(func.count()).select_from(tasks).join(queues, tasks.c.queue_id == queues.c.id)
    open_items = open_items.where(queues.c.kind == "rank", queues.c.screening_id.is_(None), queues.c.state == "open")
    frozen = select(func.max(releases.c.created)).where(releases.c.kind == "rankings")
    fresh = select(func.count()).select_from(rankings).join(prompts, rankings.c.prompt_id == prompts.c.id)
    fresh = fresh.where(rankings.c.rubric != VOTES, prompts.c.split == "train")
    with store.read() as connection:
        found = {row.id: row.meta.get("from", row.source) for row in connection.execute(new.order_by(prompts.c.id))}
        items = connection.execute(open_items.where(tasks.c.state == "open")).scalar_one()
        last = connection.execute(frozen).scalar()
        since = fresh if last is None else fresh.where(rankings.c.created > last)
        return Waiting(prompts=found, items=items, rankings=connection.execute(since).scalar_one())
