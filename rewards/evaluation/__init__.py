"""Evaluation over a set of posts: scores under each protocol, and why they are what they are."""
