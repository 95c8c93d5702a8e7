"""What the service and its clients say to each other: orders, events, results, problems.

Knows nothing of HTTP or Ray.
"""
