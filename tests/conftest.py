"""Artifacts, servers and clients that the tests share."""

import fcntl
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

import networks
from mattebox_export import artifact as artifact_module
from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export
from mattebox_export.race import Form
from mattebox_server.local import LocalServer
from shells import Shell, open_shell

DATA = Path(__file__).parents[2] / "shared" / "data"

Export = Callable[..., list[str]]


def run_export(*argv: object) -> list[str]:
    """`mattebox-export` in this process; returns the lines that it prints."""
    arguments = parse_arguments([str(word) for word in argv])
    assert not isinstance(arguments, Path)
    return list(export(arguments))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """The servers under test must not see the settings of whoever runs the tests, and OpenVINO reports no import."""
    for name in [name for name in os.environ if name.startswith("MATTEBOX_")]:
        del os.environ[name]
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # pyright: ignore


@pytest.fixture(scope="session")
def data() -> Path:
    """Photos and a trained network that lie beside the checkout on some machines."""
    if not DATA.is_dir():
        pytest.skip(f"there is no test material at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def colour_model(folder: Path) -> Path:
    """Semantic, dynamic size, input of 64 px on the short side."""
    core = networks.save_colour_core(folder / "colour-core.onnx")
    return _wrap(
        core, folder / "colour.onnx", "--labels", ",".join(networks.COLOUR_LABELS), "--resize", "short_side:64"
    )


@pytest.fixture(scope="session")
def brightness_model(folder: Path) -> Path:
    """Saliency, letterboxed into 80x80."""
    core = networks.save_brightness_core(folder / "brightness-core.onnx")
    return _wrap(core, folder / "brightness.onnx", "--resize", "letterbox:80x80")


@pytest.fixture(scope="session")
def flagship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deeplabv3_resnet101 with random weights, at half of its usual input size, its atrous convolutions rewritten.

    The export takes 20 s, so that only one of pytest-xdist's workers makes it; the folder above theirs is shared. It
    has the rewritten form on every machine, also where another one is faster.
    """
    pytest.importorskip("torchvision")

    def rewritten(forms: Sequence[Form], *_: object) -> tuple[Form, str]:
        return forms[0], forms[0].about

    own = tmp_path_factory.getbasetemp()
    artifact = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "deeplabv3_resnet101.onnx"
    with artifact.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not artifact.exists():
            options = ("--weights", "random", "--resize", "short_side:225", "--target", "openvino")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(artifact_module, "fastest", rewritten)
                run_export("deeplabv3_resnet101", *options, "-o", artifact)
    return artifact


def _wrap(core: Path, artifact: Path, *options: str) -> Path:
    unnormalised = ("--mean", "0,0,0", "--std", "1,1,1", "--licence", "Apache-2.0")
    run_export("custom", "--core", core, "-o", artifact, "--name", artifact.stem, *unnormalised, *options)
    return artifact


@pytest.fixture(scope="session")
def server(colour_model: Path, brightness_model: Path) -> Generator[LocalServer]:
    """The default model is `colour`; `brightness` is the other."""
    with LocalServer([colour_model, brightness_model], ["--provider", "cpu"]) as server:
        yield server


@pytest.fixture(scope="session")
def strict_server(colour_model: Path) -> Generator[LocalServer]:
    """Limits that a test can reach: 1 MiB a photo, one megapixel, one request."""
    flags = ["--max-photo-bytes", str(1024 * 1024), "--max-photo-pixels", "1000000", "--memory-bytes", "29550251"]
    with LocalServer([colour_model], ["--provider", "cpu", *flags]) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, server: LocalServer) -> Generator[Shell]:
    """Each test that takes it runs with both clients."""
    shell = open_shell(request.param, server.address)
    yield shell
    shell.close()
