"""Tests of sake_ray. A package, so that another distribution's `tests` folder never shadows it."""
