"""The entity types of Twitter-FMNERG: 51 fine types, each under one of 8 coarse ones.

Knows nothing of files. Always holds: a fine type has exactly one coarse parent. The table is what the
released test gold shows; all 51 types occur in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FMNERG_COARSE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "person": (
            "actor",
            "artist",
            "athlete",
            "author",
            "businessman",
            "character",
            "coach",
            "director",
            "intellectual",
            "journalist",
            "musician",
            "person_other",
            "politician",
        ),
        "organization": (
            "band",
            "company",
            "educational_institution",
            "government_agency",
            "news_agency",
            "organization_other",
            "political_party",
            "social_organization",
            "sports_league",
            "sports_team",
        ),
        "location": ("city", "continent", "country", "location_other", "park", "road", "state"),
        "building": ("building_other", "cultural_place", "entertainment_place", "sports_facility"),
        "art": ("art_other", "film_and_television_works", "magazine", "music", "written_work"),
        "product": ("brand_name_products", "game", "product_other", "software"),
        "event": ("event_other", "festival", "sports_event"),
        "other": ("animal", "award", "medical_thing", "ordinance", "website"),
    }
)

FMNERG_TYPES: Mapping[str, str] = MappingProxyType(
    {fine: coarse for coarse, fines in FMNERG_COARSE.items() for fine in fines}
)
"""Fine type → coarse type."""
