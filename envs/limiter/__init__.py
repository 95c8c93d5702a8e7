"""How often something outside is asked: one limiter for a cluster, and what its users hold."""
