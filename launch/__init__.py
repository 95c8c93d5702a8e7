"""Wiring and entry scripts, one a job."""
