"""Where things run: every Ray actor, each a plain class first."""
