"""`make demo` after its installation: the model, the composites, the contact sheet."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import images

ROOT = Path(__file__).parents[2]


def run(script: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / script), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


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
    assert "make demo MODEL=deeplabv3_resnet101" in done.stdout
    white = images.decode((tmp_path / "demo" / "astronaut-white.png").read_bytes())
    assert (white[:20, 300:500] == 255).all()  # the shuttle is gone
    assert np.abs(white[300:400, 200:250].astype(int).mean((0, 1)) - (230, 90, 60)).max() < 60  # the suit is not


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    done = run("demo.py", "--model", "u2netq", cwd=tmp_path)
    assert done.returncode == 1
    assert "the nearest names are u2net" in done.stderr


def test_the_demo_takes_u2netp_and_no_torch() -> None:
    """Whatever the machine reaches, the demo installs nothing heavy before it shows something."""
    planned = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert '--model "u2netp"' in planned
    assert not re.search(r"\[[^]]*\bexport\b", planned)


def test_make_help_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert [line.split()[1] for line in listed.splitlines()] == phony.split()
