"""Pre-trains the mini base model that the package ships: `python launch/pretrain_base.py FOLDER`.

Takes about half an hour on two cores. Knows nothing of search or RL. Always holds: seed and steps are
those of `PretrainConfig`, and FOLDER gets a `card.json` with them, the weights' hash and held-out scores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled

import hashlib
import json
import logging
from dataclasses import asdict

from sake_ray.coldstart.base_model import PretrainConfig, pretrain
from sake_ray.prompts import load_prompts


def main(folder: Path) -> None:
    """Train and write the folder with its card."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = PretrainConfig()
    scores = pretrain(folder, load_prompts("gmner", "compact").instruction, config)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card = {"settings": asdict(config), "sha256": digest, "scores": scores}
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve())
