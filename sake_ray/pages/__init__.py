"""Pages that people look at: a run's and an evaluation's, each one HTML file that needs nothing else."""
