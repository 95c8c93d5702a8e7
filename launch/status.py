"""How a running job stands, and more or fewer workers for it.

    python launch/status.py                                the job of the cluster, live (Ctrl-C ends the view)
    python launch/status.py run=runs/first --once          the job of that run folder, once
    python launch/status.py address=HOST:6379 --json       one JSON object to standard output
    python launch/status.py --scale rollout=8 search=16    changes pools of the running job

Without `address=` or `run=`: RAY_ADDRESS, else the cluster Ray started last on this machine. With several jobs in a
cluster, `job=NAME` says which. Ends with status 2 and one sentence where there is nothing to see, or the job refused.

Knows the job by its notice board alone (actors/control.py). Always holds: nothing is changed without --scale.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled

import json
import logging
import os
import socket
import time
from typing import Any

if __name__ == "__main__" and (Path.home().joinpath(".ray", "auth_token").is_file() or "RAY_AUTH_TOKEN" in os.environ):
    # Ray's clusters ask for the token that lies there; Ray reads this variable once, when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from rich.console import Console
from rich.live import Live

from actors.control import NAMESPACE, find_controls
from launch.control import NOTE
from launch.status_view import draw

ANSWER_S = 60.0
CONNECT_S = 5.0
EVERY_S = 2.0
FLAGS = ("--json", "--once", "--scale", "--help", "-h")


class NothingToSee(Exception):
    """There is no job to show, or it refused; says why in a sentence."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        flags, words, sizes = read(arguments)
        if flags & {"--help", "-h"}:
            sys.stdout.write(f"{__doc__}\n")
            return 0
        board = connect(words)
        if sizes:
            sys.stdout.write(f"{scale(board, sizes)}\n")
        elif "--json" in flags:
            sys.stdout.write(json.dumps(status_of(board)) + "\n")
        elif "--once" in flags or not sys.stdout.isatty():
            Console(width=None if sys.stdout.isatty() else 150).print(draw(status_of(board), None))
        else:
            follow(board)
    except NothingToSee as error:
        sys.stderr.write(f"status: {error}\n")
        return 2
    finally:
        ray.shutdown()
    return 0


def read(arguments: list[str]) -> tuple[set[str], dict[str, str], dict[str, int]]:
    """Flags, `address= run= job=`, and the sizes after --scale.

    Raises:
        NothingToSee: an argument that means nothing here.
    """
    flags: set[str] = set()
    words: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument in FLAGS:
            flags.add(argument)
        elif equals and key in ("address", "run", "job"):
            words[key] = value
        elif equals and "--scale" in flags:
            if not value.isdecimal():
                raise NothingToSee(f"{argument}: must be a whole number of workers, as in rollout=8")
            sizes[key] = int(value)
        else:
            raise NothingToSee(f"{argument}: not known here; --help says what is")
    if "--scale" in flags and not sizes:
        raise NothingToSee("--scale needs pools and sizes, as in --scale rollout=8 search=16")
    return flags, words, sizes


def connect(words: dict[str, str]) -> Any:
    """The notice board of the job that is meant."""
    address, job = words.get("address") or os.environ.get("RAY_ADDRESS") or "auto", words.get("job")
    if "run" in words:
        note = Path(words["run"]) / NOTE
        if not note.is_file():
            raise NothingToSee(f"run={words['run']}: no job runs in this folder (it has no {NOTE})")
        known = json.loads(note.read_text(encoding="utf-8"))
        address, job = str(known["address"]), str(known["job"])
    _check_open(address)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NothingToSee(f"no Ray cluster at {address}: {why}") from error
    found = find_controls()
    if job is None and len(found) == 1:
        job = found[0]
    if job is None:
        what = f"several jobs run here; choose one with job=: {', '.join(found)}" if found else "no job runs here"
        raise NothingToSee(what)
    if job not in found:
        raise NothingToSee(f"no job {job} runs here" + (f"; there is {', '.join(found)}" if found else ""))
    return ray.get_actor(job, namespace=NAMESPACE)


def _check_open(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself tries it for minutes."""
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise NothingToSee(f"no Ray cluster at {address}: {error}") from error


def status_of(board: Any) -> dict[str, Any]:
    """The newest status."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        try:
            text = ray.get(board.status.remote(), timeout=ANSWER_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            raise NothingToSee(f"the job is gone: {str(error).splitlines()[0]}") from error
        if text:
            return dict(json.loads(text))
        time.sleep(0.5)  # it was started, or made anew, a moment ago
    raise NothingToSee(f"the job said nothing of itself in {ANSWER_S:.0f} s")


def scale(board: Any, sizes: dict[str, int]) -> str:
    """Ask the job for other pool sizes; returns its answer.

    Raises:
        NothingToSee: the job refused, or did not answer.
    """
    try:
        text = ray.get(board.ask.remote(json.dumps({"scale": sizes}), ANSWER_S), timeout=ANSWER_S + 10)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise NothingToSee(f"the job did not answer: {str(error).splitlines()[-1]}") from error
    answer = json.loads(text)
    if not answer["ok"]:
        raise NothingToSee(str(answer["text"]))
    return f"the job aims at {answer['text']}"


def follow(board: Any) -> None:
    """Draw the status again and again, until Ctrl-C or the job's end."""
    before: dict[str, Any] | None = None
    with Live(console=Console(), auto_refresh=False, screen=False) as live:
        try:
            while True:
                status = status_of(board)
                live.update(draw(status, before), refresh=True)
                if before is None or status["time"] > before["time"]:
                    before = status
                time.sleep(EVERY_S)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
