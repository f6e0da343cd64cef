"""Shared by the tests of the simulated world."""

from preceptor.simulation.requests import Request
from preceptor.simulation.world import World
from preceptor.types import Prompt

# A world whose facts are written here, so that scores can be worked out by hand.
WORLD = World(
    seed=0,
    people=("Ada", "Ben"),
    strangers=("Carl",),
    facts={
        ("Ada", "town"): "Rome",
        ("Ada", "job"): "baker",
        ("Ada", "pet"): "red cat",
        ("Ada", "food"): "pie",
        ("Ben", "town"): "Oslo",
        ("Ben", "job"): "nurse",
        ("Ben", "pet"): "blue dog",
        ("Ben", "food"): "rice",
    },
)


def prompt_for(request: Request) -> Prompt:
    """A prompt whose text does not matter: the judge reads only the request in `meta`."""
    return Prompt.of("?", meta=request.as_meta())
