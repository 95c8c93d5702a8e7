"""How much two boxes overlap.

Knows nothing of images, gold or predictions. Always holds: the two boxes are in one pixel space, whichever it is.
"""

from __future__ import annotations

Quad = tuple[float, float, float, float]
"""`x1, y1, x2, y2` in pixels; corners in the order they were given."""


def iou(a: Quad, b: Quad) -> float:
    """Intersection over union, 0.0 where the union has no positive area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0
