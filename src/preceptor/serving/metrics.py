"""Counters for Prometheus. Labels are routes, statuses, model names and outcomes; never a key or a word of anybody."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from preceptor.serving.models import Models

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One registry per server; the models are asked when Prometheus asks."""

    def __init__(self, models: Models):
        self.models = models
        self.registry = CollectorRegistry()
        here = {"registry": self.registry, "namespace": "preceptor"}
        self.requests = Counter("requests", "Requests answered.", ["route", "status"], **here)
        self.tokens = Counter("tokens", "Tokens of finished requests.", ["model", "kind"], **here)
        self.abandoned = Counter("abandoned", "Requests whose client went away before the end.", **here)
        self.prompts = Counter(
            "prompts_offered", "Prompts that came with consent, by what became of them.", ["outcome"], **here
        )
        self.first = Histogram("first_token_seconds", "From the request to its first token.", buckets=SECONDS, **here)
        self.whole = Histogram("request_seconds", "From the request to its end.", buckets=SECONDS, **here)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the models do at this moment."""
        running = GaugeMetricFamily("preceptor_rows_running", "Answers that decode.", labels=["model"])
        waiting = GaugeMetricFamily("preceptor_rows_waiting", "Answers that wait for a row.", labels=["model"])
        drawn = CounterMetricFamily("preceptor_tokens_drawn", "Tokens drawn, finished or not.", labels=["model"])
        for name, (active, queued, tokens) in self.models.loads().items():
            running.add_metric([name], active)
            waiting.add_metric([name], queued)
            drawn.add_metric([name], tokens)
        yield from (running, waiting, drawn)

    def text(self) -> bytes:
        return generate_latest(self.registry)
