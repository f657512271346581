"""`make demo` after its installation: the choice of the model, the composites, the contact sheet."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import images

ROOT = Path(__file__).parents[2]


def run(
    script: str, *argv: str, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / script), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def test_demo(tmp_path: Path) -> None:
    photo = tmp_path / "mine.png"
    photo.write_bytes(images.encode(images.textured(300, 200)))
    done = run("demo.py", "--model", "u2netp", "--photo", str(photo), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("astronaut", "chelsea", "mine"):
        for background in ("white", "picture", "transparent"):
            assert (tmp_path / "demo" / f"{name}-{background}.png").exists()
    assert re.search(r"\b(cpu|cuda|openvino) (fp32|int8)\b", done.stdout)
    assert images.decode((tmp_path / "demo" / "contact-sheet.png").read_bytes()).shape == (960, 1280, 3)
    white = images.decode((tmp_path / "demo" / "astronaut-white.png").read_bytes())
    assert (white[:20, 300:500] == 255).all()  # the shuttle is gone
    assert np.abs(white[300:400, 200:250].astype(int).mean((0, 1)) - (230, 90, 60)).max() < 60  # the suit is not


def test_choice(tmp_path: Path) -> None:
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "deeplabv3_resnet101_coco-586e9e4e.pth").touch()
    cached = run("choose_model.py", cwd=tmp_path, environment={"TORCH_HOME": str(tmp_path)})
    assert cached.stdout.strip() == "deeplabv3_resnet101"
    assert len(cached.stderr.splitlines()) == 1
    offline = {"TORCH_HOME": "/nowhere", "https_proxy": "http://127.0.0.1:1"}
    light = run("choose_model.py", cwd=tmp_path, environment=offline)
    assert light.stdout.strip() == "u2netp"
    assert "because the official weights of deeplabv3_resnet101 are not cached" in light.stderr
    assert run("choose_model.py", "deeplabv3_resnet50", cwd=tmp_path).stdout.strip() == "deeplabv3_resnet50"
    assert run("choose_model.py", "nope", cwd=tmp_path).returncode == 2


def test_make_help_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert [line.split()[1] for line in listed.splitlines()] == phony.split()
