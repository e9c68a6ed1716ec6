"""Optimizing an image: objectives, what is optimized, penalties, changes, and what they show."""
