"""The customers: each has an own wording and an own mix of use cases, and belongs to one split."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.simulation.requests import USE_CASE_SHARES, Request, Style, draw_request, phrase, weighted
from preceptor.simulation.world import World, pick
from preceptor.types import Prompt, Split

TRAINING_USERS, VALIDATION_USERS, HELD_OUT_USERS = 50, 10, 15
MIX_SHAPE = 2.0  # of the gamma distribution that bends each user's mix of use cases; larger = more alike
TRIES = 1000  # draws in a row that repeat an earlier prompt before we say that the users have run dry


@dataclass(frozen=True, slots=True)
class User:
    id: str
    split: Split
    style: Style
    shares: dict[str, float]  # use case -> weight


@dataclass(frozen=True, slots=True)
class Users:
    """Three pools without a common user: the paper splits its prompts by user."""

    training: tuple[User, ...]
    validation: tuple[User, ...]
    held_out: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and, beside it, what the world knows about it (also in `prompt.meta`)."""

    prompt: Prompt
    request: Request


def users(world: World, seed: int) -> Users:
    """All customers of a run."""
    rng = random.Random(f"users {world.seed} {seed}")

    def draw(split: Split, n: int) -> tuple[User, ...]:
        return tuple(
            User(
                f"user-{split}-{i:02d}",
                split,
                Style.draw(rng),
                {case: share * rng.gammavariate(MIX_SHAPE, 1.0) for case, share in USE_CASE_SHARES.items()},
            )
            for i in range(1, n + 1)
        )

    return Users(draw("train", TRAINING_USERS), draw("valid", VALIDATION_USERS), draw("test", HELD_OUT_USERS))


def draw_prompts(world: World, user_pool: Sequence[User], n: int, seed: int | str) -> list[Task]:
    """`n` different prompts of random users of the pool (different = by id, that is by text and user).

    Raises ValueError when the users' wordings do not give that many different prompts.
    """
    rng = random.Random(f"prompts {world.seed} {seed}")
    tasks: dict[str, Task] = {}
    repeats = 0
    while len(tasks) < n:
        user = pick(rng, user_pool)
        use_case = weighted(rng, user.shares)
        request = draw_request(world, use_case, rng)
        prompt = Prompt.of(
            phrase(request, user.style, rng),
            user_id=user.id,
            split=user.split,
            use_case=use_case,
            meta=request.as_meta(),
        )
        repeats = repeats + 1 if prompt.id in tasks else 0
        if repeats > TRIES:
            raise ValueError(f"{len(user_pool)} users can say only about {len(tasks)} different prompts, not {n}")
        tasks.setdefault(prompt.id, Task(prompt, request))
    return list(tasks.values())
