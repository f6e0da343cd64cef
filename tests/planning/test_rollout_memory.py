"""What the plan takes for granted of the engine: its cache is gone when the rollout is over."""

import gc
import weakref

from preceptor.rollout import engine
from preceptor.rollout.cache import SlotCache
from preceptor.types import Sampling
from tiny_models import make_model


def test_the_cache_does_not_outlive_the_rollout(monkeypatch):
    kept = []
    growing = SlotCache.put

    def put(cache, *states):
        growing(cache, *states)
        kept.extend(weakref.ref(layer.keys) for layer in cache.layers)

    monkeypatch.setattr(SlotCache, "put", put)
    gc.disable()  # a reference cycle would live until the next collection, which may be far away
    try:
        sampling = Sampling(temperature=1.0, max_new_tokens=4, seed=0)
        engine.generate(make_model(), [[5, 6, 7]], sampling, stop=frozenset([0]), pad=1, k=2)
        assert len(kept) == 2
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()
