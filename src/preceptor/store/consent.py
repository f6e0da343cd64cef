"""What users let us keep, and the votes that come of it."""

import time
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from preceptor.store.schema import prompts
from preceptor.store.schema_serving import consents, votes
from preceptor.store.store import Store
from preceptor.types import Ranking

VOTES = {"left": (1, 2), "right": (2, 1), "tie": (1, 1), "bad": (1, 1)}  # ranks of the left and the right answer


def count_prompts(connection: Connection, user_id: str) -> int:
    """Prompts of a user, as the transaction sees them."""
    query = select(func.count()).select_from(prompts).where(prompts.c.user_id == user_id)
    return connection.execute(query).scalar_one()


def consent_of(store: Store, user_id: str) -> str | None:
    """The version of the sentence that this user of the playground agreed to; None: they did not."""
    with store.read() as connection:
        return connection.execute(select(consents.c.version).where(consents.c.user_id == user_id)).scalar()


def set_consent(store: Store, user_id: str, version: str | None) -> None:
    """Give consent to the sentence `version`, or with None take it back for all that comes."""
    with store.write() as connection:
        connection.execute(delete(consents).where(consents.c.user_id == user_id))
        if version is not None:
            row = {"user_id": user_id, "version": version, "given_at": time.time()}
            connection.execute(insert(consents).values(row))


def add_vote(store: Store, prompt_id: str, labeler_id: str, sides: Sequence[str], vote: str) -> Ranking:
    """A vote over the completions `sides` (left, right) as a ranking of two; voting twice the same adds nothing."""
    ranking = Ranking.of(prompt_id, labeler_id, tuple(sides), VOTES[vote], rubric="playground")
    with store.write() as connection:
        if store.add_rankings([ranking], connection).new:
            row = {"ranking_id": ranking.id, "vote": vote, "left_id": sides[0], "right_id": sides[1], "at": time.time()}
            connection.execute(insert(votes).values(row))
    return ranking
