"""Who may import whom: the invariants of ARCHITECTURE.md, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "mattebox": ROOT / "clients" / "python" / "mattebox",
    "mattebox_server": ROOT / "server" / "mattebox_server",
    "mattebox_export": ROOT / "export" / "mattebox_export",
}


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
# For type checkers, and for those who hand them in or ask for them: `test_pictures` proves that nobody else needs them.
ARRAYS_AND_PICTURES = {"mattebox.photos", "mattebox.pictures", "mattebox.results"}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands in the file."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
    return named


def importers(package: str) -> set[str]:
    """Modules that import a package or anything in it; generated code apart, the command line as one."""
    return {
        "mattebox.cli" if within(name, "mattebox.cli") else name
        for name, path in MODULES.items()
        if not name.startswith("mattebox.v1")
        and any(imported == package or imported.startswith(package + ".") for imported in imports(path))
    }


def test_there_is_something_to_read() -> None:
    assert len(MODULES) > 40
    assert "mattebox_server.engine.session" in importers("onnxruntime")


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "grpc",
            {
                "mattebox._core",
                "mattebox.aio",
                "mattebox.client",
                "mattebox.errors",
                "mattebox.security",
                "mattebox_server.rpc.access",
                "mattebox_server.app",
                "mattebox_server.rpc.listening",
                "mattebox_server.rpc.service",
                "mattebox_server.rpc.statuses",
                "mattebox_server.rpc.streaming",
                "mattebox_server.security.tls",
                "mattebox_server.rpc.wire",
            },
        ),
        (
            "onnxruntime",
            {
                "mattebox_server.engine.session",
                "mattebox_server.engine.providers",
                "mattebox_export.forms",
                "mattebox_export.onnx_core",
                "mattebox_export.parity",
            },
        ),
        ("torch", {"mattebox_export.torchvision_core"}),
        ("torchvision", {"mattebox_export.torchvision_core"}),
        ("typer", {"mattebox.cli"}),
        ("rich", {"mattebox.cli"}),
        ("pydantic_settings", {"mattebox_server.settings"}),
        ("prometheus_client", {"mattebox_server.telemetry.metrics"}),
        ("opentelemetry", {"mattebox_server.telemetry.tracing"}),
        ("isal", {"mattebox_server.imaging.png"}),
        (
            "PIL",
            {
                "mattebox_server.imaging.codec",
                "mattebox_server.imaging.colors",
                "mattebox_server.imaging.headers",
                *ARRAYS_AND_PICTURES,
            },
        ),
    ],
)
def test_a_library_is_known_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    assert importers(package) == allowed


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mattebox", ["cv2", "mattebox_server", "mattebox_export"]),
        ("mattebox_server", ["mattebox_export", "mattebox.client", "mattebox.aio", "mattebox.options"]),
        ("mattebox_server.errors", ["mattebox", "mattebox_server"]),
        ("mattebox_server.engine.config", ["onnxruntime", "numpy"]),
        ("mattebox_server.engine.batcher", ["onnxruntime", "asyncio"]),
        ("mattebox_server.engine", ["mattebox", "mattebox_server.rpc.service", "mattebox_server.removal.pipeline"]),
        *(
            (f"mattebox_server.{pure}", ["mattebox", "onnxruntime", "mattebox_server.engine", "asyncio"])
            for pure in (
                *("codec", "colors", "headers", "orientation", "preprocess", "matte", "grid", "foreground", "blend"),
                *("backdrop", "frame", "subjects", "pixels", "png"),
            )
        ),
        ("mattebox_server.removal.pipeline", ["mattebox", "onnxruntime"]),
        ("mattebox_server.removal.stages", ["mattebox", "onnxruntime", "asyncio"]),
    ],
)
def test_direction(module: str, forbidden: list[str]) -> None:
    for name, path in MODULES.items():
        if within(name, module):
            for imported in imports(path):
                assert not any(within(imported, package) for package in forbidden), f"{name} imports {imported}"


def test_the_client_knows_arrays_where_it_must() -> None:
    assert {name for name in importers("numpy") if within(name, "mattebox")} == ARRAYS_AND_PICTURES


def test_export_takes_little_of_the_server() -> None:
    """The artifact's description, its check photo, and the question which provider this machine has."""
    allowed = (
        "mattebox_server.spec",
        "mattebox_server.engine.selfcheck",
        "mattebox_server.engine.providers.best_target",
    )
    for name, path in MODULES.items():
        if within(name, "mattebox_export"):
            for imported in imports(path):
                if within(imported, "mattebox_server") or within(imported, "mattebox"):
                    assert any(within(imported, each) for each in allowed), f"{name} imports {imported}"


def test_the_environment_is_read_only_in_the_settings() -> None:
    readers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    # __main__ sets two of OpenCV's own; the exporter looks up the user's cache folder.
    assert readers == {"mattebox_server.settings", "mattebox_server.__main__", "mattebox_export.arguments"}
