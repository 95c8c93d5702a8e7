"""An entity is seen when its surface form is in the training split, unless the data set says otherwise."""

from __future__ import annotations

from sake_ray.data.seen import mark_seen
from sake_ray.types import Entity, Example, ImageRef


def _post(*entities: Entity) -> Example:
    return Example("1", "text", ImageRef("1.jpg", 1, 1), entities)


def test_marks_by_surface_form_and_keeps_marks() -> None:
    train = [_post(Entity("Oslo", "LOC"))]
    test = _post(Entity("oslo", "ORG"), Entity("Bergen", "LOC"), Entity("Oslo", "LOC", seen=False))
    (marked,) = mark_seen([test], train)
    assert [entity.seen for entity in marked.entities] == [True, False, False]
    assert test.entities[0].seen is None
