"""The training loop and what it needs to be resumed."""
