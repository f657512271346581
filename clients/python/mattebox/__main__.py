"""Entry point of the command line, whose other modules need the extra `cli`."""

import sys


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        from mattebox.cli import app  # noqa: PLC0415 - typer and rich may not be installed
    except ModuleNotFoundError as error:
        sys.stderr.write(f"mattebox: the command line needs {error.name}: pip install 'mattebox[cli]'\n")
        return 1
    except KeyboardInterrupt:
        return 130
    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
