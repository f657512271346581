"""Exports that need no torch (U2-Net-p, and a user's own cores), and exports that fail."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx.external_data_helper import convert_model_to_external_data

import images
import networks
from conftest import run_export
from mattebox_export import parity as parity_module
from mattebox_export.arguments import parse_arguments
from mattebox_export.catalogue import CATALOGUE, VOC_LABELS, Normalisation
from mattebox_export.errors import ExportError
from mattebox_export.option_values import parse_labels, parse_resize
from mattebox_server.spec import METADATA_KEY, Letterbox, ModelSpec, ShortSide, SpecError, Stretch

UNNORMALISED = ("--mean", "0,0,0", "--std", "1,1,1")
LABELS = ",".join(networks.COLOUR_LABELS)


def spec_of(path: Path) -> ModelSpec:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return ModelSpec.from_metadata(session.get_modelmeta().custom_metadata_map)


def test_u2netp(folder: Path) -> None:
    """The artifact gives the same map of a photo as U2-Net's own recipe."""
    lines = run_export("u2netp", "--precision", "fp32", "-o", folder / "u2netp.onnx")
    assert any(line.startswith("parity at 320x320, batch 2") for line in lines)
    spec = spec_of(folder / "u2netp.onnx")
    assert (spec.kind, spec.labels, spec.licence) == ("saliency", ("subject",), "Apache-2.0")
    assert spec.resize == Stretch(width_px=320, height_px=320)
    assert spec.weights.trained
    photos = np.stack([images.textured(320, 320, seed) // 2 for seed in range(3)])  # their maximum is below 255
    session = ort.InferenceSession(folder / "u2netp.onnx", providers=["CPUExecutionProvider"])
    (foreground,) = session.run(None, {"image": photos[..., ::-1]})
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    core = networks.u2netp_core()
    for photo, found in zip(photos, foreground, strict=True):
        tensor = ((photo / photo.max() - mean) / std).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
        saliency = core.reference(tensor)[0, 0]
        expected = (saliency - saliency.min()) / (saliency.max() - saliency.min()) * 255
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (networks.save_colour_core, ["batch", "height", "width"]),
        (partial(networks.save_colour_core, size=32), ["batch", 32, 32]),
        (partial(networks.save_colour_core, size=32, batch=1), [1, 32, 32]),
        (networks.save_half_size_core, ["batch", "height", "width"]),
    ],
    ids=["dynamic", "fixed", "fixed-batch", "half-size"],
)
def test_custom_semantic(folder: Path, make: Callable[[Path], Path], shape: list[object]) -> None:
    core = make(folder / "core.onnx")
    run_export("custom", "--core", core, "--labels", LABELS, *UNNORMALISED, "-o", folder / "c.onnx", "--name", "c")
    session = ort.InferenceSession(folder / "c.onnx", providers=["CPUExecutionProvider"])
    image, keep = session.get_inputs()
    foreground, classes = session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", [*shape, 3])
    assert (keep.name, keep.type, keep.shape) == ("keep", "tensor(float)", [shape[0], 4])
    for output, name in ((foreground, "foreground"), (classes, "classes")):
        assert (output.name, output.type, output.shape) == (name, "tensor(uint8)", shape)


def test_outputs_are_what_the_format_says(folder: Path) -> None:
    """With BGR in, foreground is round(255 x sum of the kept softmax), and classes is the argmax."""
    core = networks.save_colour_core(folder / "core.onnx")
    run_export("custom", "--core", core, "--labels", LABELS, *UNNORMALISED, "-o", folder / "d.onnx")
    session = ort.InferenceSession(folder / "d.onnx", providers=["CPUExecutionProvider"])
    photos = np.stack([images.textured(31, 23, seed) for seed in range(2)])
    keep = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    foreground, classes = session.run(None, {"image": photos[..., ::-1], "keep": keep})
    logits = networks.colour_network((photos / 255).transpose(0, 3, 1, 2).astype(np.float32)).astype(float)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.rint(255 * np.einsum("nchw,nc->nhw", probability, keep))
    assert np.abs(foreground - expected).max() <= 1
    assert (foreground == expected).mean() > 0.99
    assert (classes == logits.argmax(1)).all()


@pytest.mark.parametrize("activation", ["none", "sigmoid", "minmax"])
def test_custom_saliency(folder: Path, activation: str) -> None:
    core = networks.save_brightness_core(folder / "core.onnx", 16)
    out = folder / "e.onnx"
    run_export(
        "custom", "--core", core, *UNNORMALISED, "--activation", activation, "-o", out, "--resize", "letterbox:16x16"
    )
    assert spec_of(out).resize == Letterbox(width_px=16, height_px=16)
    photos = images.textured(16, 16)[np.newaxis]
    (foreground,) = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"image": photos})
    value = photos.mean(-1) / 255
    span = (value - value.min()) / (value.max() - value.min())
    expected = {"none": value, "sigmoid": 1 / (1 + np.exp(-value)), "minmax": span}[activation]
    assert np.abs(foreground - 255 * expected).max() <= 0.51 + 1e-3


def test_metadata_is_all_that_the_server_needs(colour_model: Path) -> None:
    spec = spec_of(colour_model)
    assert spec.name == "colour"
    assert spec.labels == networks.COLOUR_LABELS
    assert spec.resize == ShortSide(short_side_px=64, max_long_side_px=256)
    assert spec.weights.source == "colour-core.onnx"
    assert spec.tools["onnx"] == onnx.__version__
    assert ModelSpec.from_metadata({METADATA_KEY: spec.to_json()}) == spec
    with pytest.raises(SpecError, match=r"have no mattebox\.spec"):
        ModelSpec.from_metadata({})
    with pytest.raises(SpecError, match=r"export it again(.|\n)*spec_version"):
        ModelSpec.from_metadata({METADATA_KEY: spec.to_json().replace('"spec_version":3', '"spec_version":2')})
    with pytest.raises(SpecError, match="colour_space"):
        ModelSpec.from_metadata({METADATA_KEY: spec.to_json()[:-1] + ',"colour_space":"P3"}'})


@pytest.mark.parametrize(
    "wrong", [Normalisation((0.1, 0, 0), (1, 1, 1)), Normalisation((0, 0, 0), (1, 1, 1), by_maximum=True)]
)
def test_a_failing_parity_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Normalisation) -> None:
    """The parity check notices that the reference gets pixels which are normalised in another way."""
    core = networks.save_colour_core(folder / "core.onnx")
    right = parity_module.normalise

    def normalise(photos: images.Bytes, _: Normalisation) -> NDArray[np.float32]:
        return right(photos, wrong)

    monkeypatch.setattr(parity_module, "normalise", normalise)
    with pytest.raises(ExportError, match="nothing was written"):
        run_export("custom", "--core", core, "--labels", LABELS, *UNNORMALISED, "-o", folder / "f.onnx")
    assert not list(folder.glob("f.onnx*"))


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = networks.save_colour_core(folder / "core.onnx")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="No space left"):
        run_export("custom", "--core", core, "--labels", LABELS, *UNNORMALISED, "-o", folder / "g.onnx")
    assert not list(folder.glob("g.onnx*"))


def test_weights_beside_the_core_count_in_its_digest(folder: Path) -> None:
    digests: set[str] = set()
    for factor in (1, 2):
        model = onnx.load_model_from_string(networks.save_colour_core(folder / "core.onnx").read_bytes())
        model.graph.initializer[0].raw_data = (factor * networks.COLOUR_WEIGHTS).tobytes()
        beside = folder / f"beside{factor}"
        beside.mkdir()
        convert_model_to_external_data(model, location="core.data", size_threshold=0)
        onnx.save(model, beside / "core.onnx")  # pyright: ignore[reportUnknownMemberType]
        run_export("custom", "--core", beside / "core.onnx", "--labels", LABELS, "-o", beside / "out.onnx")
        digests.add(spec_of(beside / "out.onnx").weights.sha256)
        (beside / "core.data").unlink()
        with pytest.raises(ExportError, match=r"core\.data, which must lie beside it and is missing"):
            run_export("custom", "--core", beside / "core.onnx", "--labels", LABELS, "-o", beside / "none.onnx")
    assert len(digests) == 2


def test_an_export_never_overwrites_its_core(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    networks.save_colour_core(folder / "mine.onnx")
    run_export("custom", "--core", "mine.onnx", "--labels", LABELS)
    assert spec_of(folder / "mine.mattebox.onnx").name == "mine"
    with pytest.raises(SystemExit):
        parse_arguments(["custom", "--core", "mine.onnx", "-o", str(folder / "mine.onnx")])


def test_a_letterbox_would_count_for_a_network_that_divides_by_the_maximum(folder: Path) -> None:
    with pytest.raises(ExportError, match="letterbox"):
        run_export("u2netp", "--resize", "letterbox:320x320", "-o", folder / "l.onnx")


def test_an_unwritable_place(folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx")
    with pytest.raises(ExportError, match="can't write"):
        run_export("custom", "--core", core, "--labels", LABELS, "-o", core / "below" / "a-file.onnx")


def test_the_catalogue_needs_no_onnx() -> None:
    code = (
        "import sys; sys.modules.update(onnx=None, numpy=None, onnxruntime=None); sys.argv[1:] = ['--list']\n"
        "from mattebox_export.cli import main; sys.exit(main())"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert "u2netp" in listed.stdout


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mattebox_export.cli", *argv], capture_output=True, text=True, check=False
    )


def test_list_shows_licence_and_size() -> None:
    listed = command("--list").stdout
    for entry in CATALOGUE.values():
        (line,) = [line for line in listed.splitlines() if line.startswith(entry.name + " ")]
        assert entry.licence in line
        assert f"{entry.source.megabytes} MB" in line
        assert entry.about in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nope"], "no network has the name nope; the nearest names are"),
        ([], "which MODEL"),
        (["custom"], "--core"),
        (["u2netp", "--weights", "random"], "--weights random is not for u2netp"),
        (["custom", "--core", "c", "--weights", "f"], "--weights is not for custom"),
        (["bria-rmbg"], "forbids commercial use"),
        (["bria-rmbg", "--accept-licence", "u2net"], "--accept-licence bria-rmbg"),
        (["u2netp", "--labels", "voc"], "no classes"),
        (["u2netp", "--mean", "0,0,0"], "--mean is for custom only"),
        (["deeplabv3_resnet50", "--labels", "background,cat"], "Pascal VOC labels"),
        (["u2netp", "--resize", "wide"], "--resize wide"),
        (["custom", "--core", "c", "--mean", "1,2"], "three numbers"),
        (["custom", "--core", "c", "--std", "1,0,1"], "--std 1,0,1"),
        (["custom", "--core", "c", "--std", "58,57,57"], "divide by 255"),
        (["custom", "--core", "c", "--mean", "123,116,103"], "divide by 255"),
        (["custom", "--core", "c", "--mean", "nan,0,0"], "--mean nan"),
        (["u2netp", "-o", ""], "-o: is empty"),
        (["custom", "--core", "c", "--labels", "one"], "no such file"),
        (["custom", "--core", "c", "--labels", "x" * 300], "no such list"),
        (["custom", "--core", "c", "--labels", ",".join(f"l{n}" for n in range(257))], "2 to 256"),
        (["custom", "--core", "c", "--labels", "a,b", "--activation", "sigmoid"], "saliency"),
        (["u2netp", "--precision", "fp16"], "--precision"),
        (["u2netp", "--licence", "MIT"], "--licence"),
    ],
)
def test_wrong_command_lines(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(argv)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_failures_are_one_line_and_exit_1(folder: Path) -> None:
    done = command("custom", "--core", str(folder / "nowhere.onnx"))
    assert done.returncode == 1
    assert done.stderr.startswith("mattebox-export: can't read the core")
    assert "Traceback" not in done.stderr


def test_policies_and_labels(tmp_path: Path) -> None:
    assert parse_resize("short_side:450") == ShortSide(short_side_px=450, max_long_side_px=1800)
    assert parse_resize("stretch:320x256") == Stretch(width_px=320, height_px=256)
    assert parse_resize("letterbox:512x384") == Letterbox(width_px=512, height_px=384)
    for text in ("short_side", "short_side:0", "stretch:320", "stretch:0x5", "stretch:9999x9999", "crop:3x3", ""):
        with pytest.raises(ValueError, match="must be like"):
            parse_resize(text)
    file = tmp_path / "labels.txt"
    file.write_bytes(b"\xef\xbb\xbfbackground\r\n cat \r\n\r\ndog\r\n")  # as Windows' Notepad writes it
    assert parse_labels(str(file)) == ("background", "cat", "dog")
    assert parse_labels("voc") == VOC_LABELS
    assert len(VOC_LABELS) == 21
