"""What an episode is worth: pure functions. No Ray, no torch."""
