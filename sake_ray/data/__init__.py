"""Readers, image sizing, sampling and encoding of posts."""
