"""The service's numbers on Ray's metrics port: orders under way, their ends, what they took.

Knows nothing of how orders are played. Always holds: every order is counted once, by how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge, Histogram

from sake_ray.serving.messages import LAST, Event

PREFIX = "sake_ray_serve_"
_EDGES_S = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0]


class EngineSeries:
    """Of one engine replica."""

    def __init__(self, policy: str) -> None:
        self._tags = {"policy": policy}
        keys = ("policy",)
        self._playing = Gauge(f"{PREFIX}playing", "orders an engine has under way", tag_keys=keys)
        self._ended = Counter(f"{PREFIX}orders", "orders that ended, by how", tag_keys=(*keys, "end"))
        self._searches = Counter(f"{PREFIX}searches", "searches of orders", tag_keys=keys)
        self._tokens = Counter(f"{PREFIX}generated_tokens", "tokens generated for orders", tag_keys=keys)
        self._seconds = Histogram(f"{PREFIX}episode_s", "seconds an episode took", boundaries=_EDGES_S, tag_keys=keys)
        self._now = 0

    @contextmanager
    def order(self) -> Iterator[None]:
        """An order is under way."""
        self._now += 1
        self._playing.set(self._now, self._tags)
        try:
            yield
        finally:
            self._now -= 1
            self._playing.set(self._now, self._tags)

    def count(self, event: Event) -> None:
        """An order went on."""
        if event.name not in LAST:
            return
        end = event.data.get("stop", event.name)
        self._ended.inc(1.0, {**self._tags, "end": str(end)})
        if event.name != "result":
            return
        if event.data["usage"]["searches"]:
            self._searches.inc(event.data["usage"]["searches"], self._tags)
        if event.data["usage"]["generated_tokens"]:
            self._tokens.inc(event.data["usage"]["generated_tokens"], self._tags)
        self._seconds.observe(event.data["seconds"]["total"], self._tags)


class IngressSeries:
    """Of one ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter(f"{PREFIX}requests", "requests, by route and status", tag_keys=("route", "status"))
        self._seconds = Histogram(
            f"{PREFIX}request_s", "seconds a request took", boundaries=_EDGES_S, tag_keys=("route",)
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.inc(1.0, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})
