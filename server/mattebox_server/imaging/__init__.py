"""Decodes and encodes image files, and scales pixels to the size that a network takes."""
