"""The wheel that a user gets, installed elsewhere."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "mattebox",
        "mattebox_server",
        "mattebox_export",
    }
    for package in ("mattebox", "mattebox_server", "mattebox_export"):
        assert f"{package}/py.typed" in names
    for generated in ("background_removal_pb2.py", "background_removal_pb2.pyi", "background_removal_pb2_grpc.pyi"):
        assert f"mattebox/v1/{generated}" in names
    for network in ("deeplabv3_resnet101", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"):
        assert f"mattebox_export/skeletons/{network}.onnx.gz" in names


def test_the_client_needs_only_the_base_install(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    installed = run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    assert installed.returncode == 0, installed.stderr
    code = "import mattebox; print(mattebox.__file__); print(mattebox.Client('127.0.0.1:1').ready(timeout=0.5))"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    place, ready = done.stdout.split()
    assert Path(place).is_relative_to(tmp_path)
    assert ready == "False"
    listed = run("-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").stdout
    packages = {line.partition("==")[0] for line in listed.split()} - {"pip", "setuptools"}
    assert packages == {
        "mattebox", "grpcio", "grpcio-status", "protobuf", "googleapis-common-protos", "typing_extensions",
    }  # fmt: skip
    cli = run("-m", "mattebox", "ping")
    assert cli.returncode == 1
    assert "pip install 'mattebox[cli]'" in cli.stderr


@pytest.mark.parametrize(
    "pins",
    [
        ["grpcio==1.72.2", "grpcio-status==1.72.2", "protobuf==6.30.0"],
        ["grpcio", "grpcio-status", "protobuf>=7"],
        ["tritonclient[grpc]"],
    ],
    ids=["oldest", "newest", "beside tritonclient"],
)
def test_the_client_runs_on_the_oldest_and_the_newest(wheel: Path, tmp_path: Path, pins: list[str]) -> None:
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(wheel), *pins], check=True, capture_output=True)
    beside = "import tritonclient.grpc" if pins == ["tritonclient[grpc]"] else ""
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
{beside}
import mattebox, google.protobuf
print(google.protobuf.__file__, mattebox.Client("127.0.0.1:1", retries=0).ready(timeout=0.5))
"""
    command = [sys.executable, "-S", *([] if beside else ["-W", "error"]), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    assert "False" in done.stdout
