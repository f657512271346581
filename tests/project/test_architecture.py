"""Which folder may import which, and where each library is known: the invariants of ARCHITECTURE.md, read from the
sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "mattebox": ROOT / "clients" / "python" / "mattebox",
    "mattebox_server": ROOT / "server" / "mattebox_server",
    "mattebox_export": ROOT / "export" / "mattebox_export",
}

# What each folder and each root module of the server may import of the others.
WORDS = {"errors", "request", "spec"}
ALLOWED: dict[str, set[str]] = {
    **{name: set[str]() for name in ("errors", "logs", "memory", "records", "request", "spec")},
    "local": {"errors"},
    "admission": {"errors"},
    "security": {"errors"},
    "imaging": WORDS,
    "matting": {"imaging", *WORDS},
    "engine": {"imaging", *WORDS},
    "removal": {"admission", "engine", "imaging", "matting", "records", *WORDS},
    "telemetry": {"admission", "engine", "errors", "records", "removal"},
    "rpc": {"admission", "engine", "matting", "records", "removal", "security", "telemetry", *WORDS},
    "named": {"engine", "errors", "spec"},
    "settings": {"engine", "errors", "memory", "named", "request", "security"},
}
ALLOWED["app"] = {*ALLOWED, "rpc"}
ALLOWED["__main__"] = {"app", "errors", "settings"}
MAX_ROOT_MODULES = 10


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
SERVER_FOLDERS = {path.name for path in SOURCES["mattebox_server"].iterdir() if (path / "__init__.py").exists()}
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


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def importers(package: str) -> set[str]:
    """Modules that import a package or anything in it; generated code apart, the command line as one."""
    return {
        "mattebox.cli" if within(name, "mattebox.cli") else name
        for name, path in MODULES.items()
        if not within(name, "mattebox.v1") and any(within(imported, package) for imported in imports(path))
    }


def place(name: str) -> str:
    """The folder or the root module of the server that a module belongs to."""
    return name.split(".")[1]


def arrows(sources: dict[str, Path]) -> dict[tuple[str, str], list[str]]:
    """The imports between the server's folders and root modules: from, to, and the imports that make the arrow."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, path in sources.items():
        if not name.startswith("mattebox_server."):
            continue
        for imported in imports(path):
            if imported.startswith("mattebox_server.") and place(imported) != place(name):
                found.setdefault((place(name), place(imported)), []).append(f"{name} imports {imported}")
    return found


def wrong_arrows(sources: dict[str, Path]) -> list[str]:
    return [
        f"{source} -> {target}: {'; '.join(why)}"
        for (source, target), why in sorted(arrows(sources).items())
        if target not in ALLOWED[source]
    ]


def test_no_arrow_between_the_servers_folders_runs_back() -> None:
    assert wrong_arrows(MODULES) == []


def test_a_wrong_arrow_is_named(tmp_path: Path) -> None:
    path = tmp_path / "blend.py"
    path.write_text("from mattebox_server.rpc.service import SERVICE_NAME\n")
    found = wrong_arrows({**MODULES, "mattebox_server.matting.blend": path})
    assert found == ["matting -> rpc: mattebox_server.matting.blend imports mattebox_server.rpc.service.SERVICE_NAME"]


def test_the_allowed_arrows_have_no_circle() -> None:
    left = {name: set(targets) for name, targets in ALLOWED.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_servers_root_holds_few_modules_and_every_folder_is_known() -> None:
    root = {path.stem for path in SOURCES["mattebox_server"].glob("*.py")} - {"__init__", "__main__"}
    assert len(root) <= MAX_ROOT_MODULES
    assert root | SERVER_FOLDERS | {"__main__"} == set(ALLOWED)


def rpc(*names: str) -> set[str]:
    return {f"mattebox_server.rpc.{name}" for name in names}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "grpc",
            {
                *(f"mattebox.{name}" for name in ("_calls", "_core", "aio", "client", "errors", "security")),
                *rpc("access", "listening", "service", "statuses", "wire"),
                "mattebox_server.app",
                "mattebox_server.security.tls",
            },
        ),
        (
            "onnxruntime",
            {
                "mattebox_server.engine.runtime_onnxruntime",
                *(
                    f"mattebox_export.{name}"
                    for name in ("asking", "forms", "onnx_core", "parity", "quantise.judging", "skeleton_core")
                ),
                "mattebox_export.tflite.importer",
            },
        ),
        ("tflite", {"mattebox_export.tflite.reader"}),
        ("openvino", {"mattebox_server.engine.runtime_openvino"}),
        ("torch", {"mattebox_export.torchvision_core"}),
        ("torchvision", {"mattebox_export.torchvision_core"}),
        ("typer", {"mattebox.cli"}),
        ("rich", {"mattebox.cli", "mattebox_export.quantise.calibrate"}),
        ("nncf", {"mattebox_export.quantise.calibrate"}),
        ("pydantic_settings", {"mattebox_server.settings"}),
        ("prometheus_client", {"mattebox_server.telemetry.metrics"}),
        ("opentelemetry", {"mattebox_server.telemetry.tracing"}),
        ("pi_heif", {"mattebox_server.imaging.heif"}),
        ("isal", {"mattebox_server.imaging.png"}),
        ("cryptography", {"mattebox_server.security.certificates"}),
        (
            "PIL",
            {
                *(f"mattebox_server.imaging.{name}" for name in ("codec", "colors", "headers", "heif", "tiff")),
                *ARRAYS_AND_PICTURES,
            },
        ),
    ],
)
def test_a_library_is_known_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    assert importers(package) == allowed


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mattebox", ["cv2", "mattebox_server", "mattebox_export"]),
        ("mattebox_server", ["mattebox.client", "mattebox.aio", "mattebox.options"]),
        ("mattebox_server.errors", ["mattebox", "mattebox_server"]),
        ("mattebox_server.engine.config", ["onnxruntime", "numpy"]),
        ("mattebox_server.engine.batcher", ["onnxruntime", "asyncio"]),
        *((f"mattebox_server.{folder}", ["mattebox"]) for folder in sorted(SERVER_FOLDERS - {"rpc"})),
        *((f"mattebox_server.{pure}", ["asyncio"]) for pure in ("imaging", "matting", "removal.stages")),
    ],
)
def test_a_module_does_without(module: str, forbidden: list[str]) -> None:
    for name, path in MODULES.items():
        if within(name, module):
            for imported in imports(path):
                assert not any(within(imported, package) for package in forbidden), f"{name} imports {imported}"


def test_the_client_knows_arrays_where_it_must() -> None:
    assert {name for name in importers("numpy") if within(name, "mattebox")} == ARRAYS_AND_PICTURES


def test_the_server_asks_the_exporter_for_names_only() -> None:
    """What it imports of the exporter is plain data; models are made in another process."""
    found = {
        (name, imported.split(".")[1])
        for name, path in MODULES.items()
        if within(name, "mattebox_server")
        for imported in imports(path)
        if within(imported, "mattebox_export")
    }
    assert found == {
        ("mattebox_server.__main__", "listing"),
        ("mattebox_server.named", "cached"),
        ("mattebox_server.named", "catalogue"),
        ("mattebox_server.named", "files"),
        ("mattebox_server.settings", "catalogue"),
    }


def test_export_takes_little_of_the_server() -> None:
    """An artifact's description, check photo and session; photos as the server sees them; what no network is."""
    engine = ("config", "formats", "inference", "opening", "plan", "precisions", "processor", "providers", "selfcheck")
    allowed = (
        "mattebox_server.spec",
        "mattebox_server.errors.MatteboxError",
        "mattebox_server.engine.artifact.Artifact",
        *(f"mattebox_server.engine.{name}" for name in engine),
        *(f"mattebox_server.imaging.{name}" for name in ("codec", "headers", "pixels", "preprocess")),
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
    # __main__ sets two of OpenCV's own; the exporter looks up the user's cache folder, and sets one of NNCF's own.
    assert readers == {
        "mattebox_server.settings",
        "mattebox_server.__main__",
        "mattebox_export.arguments",
        "mattebox_export.quantise.calibrate",
    }


def test_the_exporter_opens_sessions_in_one_module() -> None:
    openers = {"mattebox_server.engine.opening.open_session", "mattebox_server.engine.plan.Plan"}
    found = {name for name, path in MODULES.items() if within(name, "mattebox_export") and openers & imports(path)}
    assert found == {"mattebox_export.race"}
