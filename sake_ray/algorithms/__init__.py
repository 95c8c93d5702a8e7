"""Advantages, losses and staleness as pure functions."""
