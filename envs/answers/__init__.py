"""What searches answered, kept: one store for all jobs on a machine."""
