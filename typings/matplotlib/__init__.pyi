"""The part of matplotlib that the benchmarks use; its own types leave keyword arguments unknown."""
