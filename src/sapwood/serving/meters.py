"""What a server counts, for Prometheus: requests, tokens, and how long they were waited for."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OTHER = "other"
_MOST_NAMES = 1024  # names that get series of their own; a scrape of so many has some 10 MB
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Meters:
    """Counters of one server, in a registry of their own.

    A name becomes a label only through `name_of`, which knows the models that are served.
    """

    def __init__(self, served: Callable[[str], bool]) -> None:
        self.registry = CollectorRegistry()
        self._served, self._names = served, set[str]()
        self.requests = Counter(
            "sapwood_requests", "Requests answered.", ("route", "status", "model"),
            registry=self.registry,
        )  # fmt: skip
        self.first = Histogram(
            "sapwood_first_token_seconds", "From a request's arrival to its first token.",
            ("model",), buckets=_FIRST, registry=self.registry,
        )  # fmt: skip
        self.between = Histogram(
            "sapwood_between_tokens_seconds", "From one token of an answer to the next.",
            ("model",), buckets=_BETWEEN, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "sapwood_tokens", "Tokens of prompts (of which cached) and of answers.",
            ("kind", "model"), registry=self.registry,
        )  # fmt: skip
        self.running = Gauge("sapwood_running", "Requests in progress.", registry=self.registry)
        # of several processes at one address, the one that answers counts what it did itself
        self.watch("sapwood_process", "Number of the process that counted this.", os.getpid)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a number that is looked up when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def name_of(self, model: str) -> str:
        """Return the label of a model: its name while it is served, else "other"."""
        if model in self._names:
            return model
        if model and len(self._names) < _MOST_NAMES and self._served(model):
            self._names.add(model)
            return model
        return OTHER

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
