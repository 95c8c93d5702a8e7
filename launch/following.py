"""Follows the best policy of a run: whole copies of it, each under a name of its own.

The run replaces its folder `best_policy` when it finds a better one; an engine that starts later must still find what
the others serve. Knows nothing of serving. Always holds: a copy is of one policy, whole, and never changes; what cannot
be read now is looked at again.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from launch.run_checkpoints import BEST, BEST_POLICY
from sake_ray.data.json_files import parse_json
from sake_ray.data.problems import FieldError
from sake_ray.serving.messages import PolicyCard

log = logging.getLogger(__name__)


class Follower:
    """Looks at a run's folder; copies go to `folder`."""

    def __init__(self, run: Path, name: str, folder: Path) -> None:
        self._run = run
        self._name = name
        self._folder = folder
        self._version = 0
        self._seen = b""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():  # by a service that was here before
            shutil.rmtree(left, ignore_errors=True)

    def look(self) -> PolicyCard | None:
        """The run's best policy when it is another than at the last look; copies it."""
        source = self._run / BEST_POLICY
        note = _note(source)
        if note is None or note == self._seen:
            return None
        checkpoint = _checkpoint(note)
        copy = self._folder / f"{self._version:06d}-{checkpoint}"
        aside = copy.with_name(f".{copy.name}.unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            shutil.copytree(source, aside)
        except (OSError, shutil.Error) as error:  # it is being replaced: the next look finds the new one
            log.warning("%s could not be copied (%s); looking again", source, error)
            shutil.rmtree(aside, ignore_errors=True)
            return None
        if _note(aside) != note or _note(source) != note:
            shutil.rmtree(aside, ignore_errors=True)
            return None
        aside.rename(copy)
        card = PolicyCard(self._name, f"{self._run.name}/{BEST_POLICY}", str(copy), checkpoint, self._version)
        self._seen, self._version = note, self._version + 1
        return card

    def forget_before(self, card: PolicyCard) -> None:
        """Remove copies that are served no more."""
        for folder in self._folder.iterdir():
            if folder.name < Path(card.folder).name:  # their names begin with the version
                shutil.rmtree(folder, ignore_errors=True)


def _note(policy: Path) -> bytes | None:
    """What the run says of its best policy; None before the first, or while it is being replaced."""
    try:
        return (policy / BEST).read_bytes() if (policy / "config.json").is_file() else None
    except FileNotFoundError:
        return None


def _checkpoint(note: bytes) -> str:
    try:
        content = parse_json(note.decode("utf-8", "replace"))
    except FieldError:
        return "best"
    name = content.get("checkpoint") if isinstance(content, dict) else None
    return name if isinstance(name, str) and name.replace("-", "").isalnum() else "best"
