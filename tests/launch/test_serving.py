"""From a command line to the settings of a service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launch.make_train import free_ports

ROOT = Path(__file__).parents[2]
PLAN = """
import sys, threading
from contextlib import ExitStack
from launch.serving import plan_service
with ExitStack() as stack:
    service = plan_service(sys.argv[1:], threading.Event(), stack)
    assert service is not None and service.settings.policies[0].card.name == "a"
loaded = sorted(name for name in sys.modules if name == "ray.serve" or name.startswith("ray.serve."))
sys.exit(f"planning loaded {loaded[:3]}" if loaded else 0)
"""


def test_ray_serve_is_not_loaded_before_its_environment_is_known(tmp_path: Path) -> None:
    # Serve reads its environment when it is loaded. Loaded too early, it passes requests by reference, which takes half
    # as much processor time again.
    (port,) = free_ports((8000,))
    words = ["model=mini", f"run.dir={tmp_path / 'service'}", f"serve.port={port}"]
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
