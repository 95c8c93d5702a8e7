"""What happens in an episode: action parsing, the search environment and its tools. No Ray, no torch."""
