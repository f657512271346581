"""The entry point of `mattebox-export`."""

import importlib.util
import sys
from pathlib import Path

from mattebox_export.arguments import parse_arguments
from mattebox_export.errors import ExportError
from mattebox_export.listing import listing


def main() -> int:
    """Exports one network.

    Returns:
        The exit code: 0 if the artifact is written, 1 if it can't be, 2 for a wrong command line.
    """
    arguments = parse_arguments(sys.argv[1:])
    if isinstance(arguments, Path):
        for line in listing(arguments):
            _say(line)
        return 0
    try:
        _require_onnx()
        from mattebox_export.artifact import export  # noqa: PLC0415 - heavy, and not needed for --list

        for line in export(arguments):
            _say(line)
    except ExportError as error:
        sys.stderr.write(f"mattebox-export: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _require_onnx() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ExportError("the parity check needs onnxruntime: pip install 'mattebox[cpu]' (or 'mattebox[cuda]')")
    if importlib.util.find_spec("onnx") is None:
        raise ExportError("the package onnx is missing: pip install 'mattebox[export]' (without torch: export-onnx)")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
