"""The settings of the service: where it listens, what it takes on, and how its parts grow.

Knows nothing of files, presets or the command line, nor of how any of it works. Always holds: the token itself is never
a setting, only the environment variable that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sake_ray.config.values import Section, read_range, setting


@dataclass(frozen=True)
class ServeConfig(Section):
    """The service (launch/serve.py); engines and search tools are those of rollout.* and search.*."""

    NAME: ClassVar[str] = "serve"
    host: str = setting("127.0.0.1", "address to listen at; any but a loopback one needs serve.token_env")
    port: int = setting(8000, "port to listen at", low=1, high=65535)
    token_env: str = setting("", "environment variable with the bearer token that clients must send; empty: none")
    follow: str = setting(
        "", "run folder whose best policy is served, each new best as soon as it is there", is_path=True
    )
    compare: str = setting("", "A,B: two policies side by side, each named as model= is; instead of model=")
    proxy: str = setting(
        "python",
        "who stands before the ingress: Ray Serve's own proxy, or HAProxy, which takes a tenth of its time but shows "
        "its statistics to anybody at ports 8404 and 9101",
        choices=("python", "haproxy"),
    )
    ingress: str = setting("1:2", "MIN:MAX processes that take requests", is_range=True)
    engines: str = setting("1:1", "MIN:MAX engines of each policy", is_range=True)
    searches: str = setting("1:2", "MIN:MAX search workers", is_range=True)
    per_engine: int = setting(32, "requests under way in an engine above which another one is started", low=1)
    max_concurrent: int = setting(128, "requests under way in an ingress above which it answers 429", low=1)
    max_body_mib: int = setting(12, "MiB of a request's body", low=1, high=1024)
    max_text_chars: int = setting(4000, "characters of a post", low=1, high=4000)
    max_batch: int = setting(32, "requests in one batch", low=1)
    deadline_s: float = setting(
        60.0, "seconds in which a request is answered or given up; clients may ask for less", above=0.0
    )
    search_s: float = setting(
        15.0, "seconds a search may take (search.timeout_s, if that is less); then the policy is told, and answers",
        above=0.0,
    )  # fmt: skip
    body_s: float = setting(20.0, "seconds in which a request's body must have come", above=0.0)
    fetch_s: float = setting(10.0, "seconds in which the picture of an image_url must have come", above=0.0)
    urls: bool = setting(True, "whether pictures are fetched from an image_url")
    allow_private: bool = setting(False, "for tests: image_url may lead to this machine and its network")
    follow_every_s: float = setting(2.0, "seconds between looks at the run that is followed", above=0.0)
    examples: str = setting(
        "", "folder of your own examples for the page: posts.jsonl or pictures with .txt beside them", is_path=True
    )

    def replicas(self, part: str) -> tuple[int, int]:
        """MIN and MAX of `ingress`, `engines` or `searches`."""
        return read_range(f"serve.{part}", getattr(self, part))
