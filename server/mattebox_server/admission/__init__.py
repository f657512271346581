"""Which request is taken, which one waits, and which one is refused."""
