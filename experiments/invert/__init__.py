"""Inversion: images from the codes of a network's layers."""
