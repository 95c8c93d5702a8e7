"""Fetching what strangers publish: addresses checked, everything bounded, pictures made harmless."""
