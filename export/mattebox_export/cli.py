"""The entry point of `mattebox-export`."""

import importlib.util
import sys

from mattebox_export.arguments import CUSTOM, parse_arguments
from mattebox_export.catalogue import CATALOGUE
from mattebox_export.errors import ExportError


def main() -> int:
    """Exports one network.

    Returns:
        The exit code: 0 if the artifact is written, 1 if it can't be, 2 for a wrong command line.
    """
    arguments = parse_arguments(sys.argv[1:])
    if arguments is None:
        print_catalogue()
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


def print_catalogue() -> None:
    """Prints every network with licence and size."""
    row = "{:<30} {:<9} {:<13} {:>9}  {}"
    _say(row.format("model", "kind", "licence", "weights", "about"))
    for entry in CATALOGUE.values():
        _say(row.format(entry.name, entry.kind, entry.licence, f"{entry.megabytes} MB", entry.about))
    _say(row.format(CUSTOM, "either", "yours", "yours", "your own network, --core FILE.onnx"))


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
