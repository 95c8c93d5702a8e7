"""Serve a trained policy: an HTTP API and a page, on Ray Serve.

    python launch/serve.py                                  the policy of the last run under runs/, else the shipped one
    python launch/serve.py model=mini|MODEL|RUN|CHECKPOINT [serve.port=8000] [section.field=value …]
    python launch/serve.py serve.follow=RUN                 each new best policy of a run, as it is found
    python launch/serve.py serve.compare=RUN_A,RUN_B        two policies side by side

A run's policy comes with the run's own settings; --help lists all of them, docs/serving.md explains. Ctrl-C ends the
service. Knows nothing of HTTP. Always holds: it listens on this machine alone unless there is a token; what cannot be
is one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.placement import joined_ray
from launch.following import Follower
from launch.script import REFUSED, STOPPED
from launch.serving import JOB, Service, plan_service
from launch.words import UsageError
from sake_ray.config.cli import ConfigError
from sake_ray.data.images import ImageError
from sake_ray.data.problems import DataError
from sake_ray.prompts import PromptError

log = logging.getLogger(__name__)

# Ray Serve as a service with few, short requests wants it: no second event loop in a replica, calls between replicas
# without the object store, and a controller that looks twice a second (it takes a third of a core at its ten times).
_QUICK = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
_HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1"}


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{__doc__}\n")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ExitStack() as stack:
            service = plan_service(arguments, stop, stack)
            if service is None:
                return STOPPED
            env = _QUICK | (_HAPROXY if service.proxy == "haproxy" else {})
            env = {name: os.environ.setdefault(name, value) for name, value in env.items()}
            stack.enter_context(joined_ray(service.cpus, python_path=Path(__file__).resolve().parents[1], env=env))
            return _serve(service, stop)
    except (UsageError, ConfigError, DataError, ImageError, PromptError) as error:  # the process boundary
        sys.stderr.write(f"{JOB}: {error}\n")
        return REFUSED


def _serve(service: Service, stop: threading.Event) -> int:
    from actors.serving.deploy import SWAP_S, RunningService, ServeTaken

    try:
        running = RunningService.start(service.settings)
    except ServeTaken as error:
        raise UsageError(str(error)) from error
    try:
        log.info(
            "serving %s", ", ".join(f"{each.card.model} as {each.card.name}" for each in service.settings.policies)
        )
        # Whoever started it may read standard output alone.
        sys.stdout.write(f"serving at http://{service.settings.host}:{service.settings.port}/\n")
        sys.stdout.flush()
        follower: Follower | None = service.follower
        while not stop.wait(service.every_s):
            card = None if follower is None else follower.look()
            if card is None:
                continue
            log.info("swapping in %s of %s", card.checkpoint, card.model)
            behind = running.swap(card)
            for engine in behind:
                log.error("%s does not serve it after %.0f s", engine, SWAP_S)
            log.info("serving %s (version %d)", card.checkpoint, card.version)
            assert follower is not None
            if not behind:
                follower.forget_before(card)
    finally:
        log.info("stopping")
        running.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
