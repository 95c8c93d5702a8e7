"""Stage 2 on the Twitter-2017 posts of the data set in data.root (without it: on MiniWorld)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled, as a Ray working directory

from launch.rl import entry

if __name__ == "__main__":
    entry("rl_twitter17", {"data.subset": "twitter17"})
