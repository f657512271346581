"""Latency and capacity under load: `python -m load`, from any folder."""

from load.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
