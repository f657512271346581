"""Image files to pixels and back, and pixels to the size that a network takes."""
