"""Exports in int8 from end to end: photos or a table in, an artifact that the server checks, or nothing, out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import networks
import quantised
from conftest import run_export
from cuda_kernels import missing_kernels
from mattebox_export import artifact as artifact_module
from mattebox_export import race
from mattebox_export.arguments import parse_arguments
from mattebox_export.errors import ExportError
from mattebox_export.quantise.calibrate import GateFailed
from mattebox_export.quantise.table import CalibrationTable
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable
from mattebox_server.engine.opening import ArtifactSession, open_session
from mattebox_server.engine.plan import Plan
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.spec import ModelSpec

pytest.importorskip("nncf")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of other runs must not decide which form is written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantised.save_photos(tmp_path_factory.mktemp("int8") / "photos")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A folder with a core, its int8 artifact and the calibration table that came with it."""
    folder = tmp_path_factory.mktemp("made")
    save_core(folder, 1)
    options = ("--calibration", photos, "--save-table", folder / "table.json", "--target", "cpu")
    (folder / "lines").write_text("\n".join(export(folder, *options, "--precision", "int8")))
    return folder


def save_core(folder: Path, sensitive: int) -> None:
    (folder / "core.onnx").write_bytes(networks.sensitive_network(sensitive).SerializeToString())


def export(folder: Path, *options: object, output: str = "out.onnx") -> list[str]:
    """Exports the folder's core; returns the lines that are printed."""
    plain = ("--mean", "0,0,0", "--std", "1,1,1", "--resize", "short_side:48")
    return run_export("custom", "--core", folder / "core.onnx", *plain, *options, "-o", folder / output)


def opened(path: Path, provider: ProviderName) -> ArtifactSession:
    """A session of an int8 artifact; skips the test where the provider isn't installed."""
    try:
        device = find_device(provider)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    return open_session(Plan(read_artifact(path), device, "int8", EngineConfig()))


def load(path: Path) -> onnx.ModelProto:
    return onnx.load_model_from_string(path.read_bytes())


def spec_of(path: Path) -> ModelSpec:
    return read_artifact(path).spec


def test_an_int8_artifact_says_how_near_it_comes_to_fp32(made: Path) -> None:
    spec, lines = spec_of(made / "out.onnx"), (made / "lines").read_text().splitlines()
    assert spec.precision == "int8"
    assert spec.quantisation is not None
    assert spec.quantisation.calibration == "12 photos of a folder"
    assert set(spec.quantisation.float_layers) == {"first", "choose0", "last"}
    assert spec.quantisation.fidelity.passes
    assert spec.quantisation.fidelity.photos == 6
    assert f"int8: {spec.quantisation.fidelity}" in lines
    assert "form for cpu: int8, 3 layers in float" in lines
    assert f"wrote the calibration table {made / 'table.json'}" in lines
    table = CalibrationTable.model_validate_json((made / "table.json").read_bytes())
    assert table.int8 is not None
    assert table.int8.fidelity == spec.quantisation.fidelity
    assert table.weights_sha256 == spec.weights.sha256
    ops = [node.op_type for node in load(made / "out.onnx").graph.node]
    assert "QuantizeLinear" in ops


def test_a_table_alone_gives_the_very_same_artifact(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NNCF and without a photo."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    options = ("--calibration", made / "table.json", "--target", "cpu", "--precision", "int8")
    lines = export(made, *options, output="again.onnx")
    assert "calibration table of 12 photos of a folder" in lines
    assert (made / "again.onnx").read_bytes() == (made / "out.onnx").read_bytes()


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_check_photo_accepts_the_artifact_and_nothing_else(
    made: Path, tmp_path: Path, provider: ProviderName
) -> None:
    """Weights of zeros, of another network and of the opposite sign are found, and so is another scale."""
    session = opened(made / "out.onnx", provider)
    assert check_session(session)["mean_levels"] <= 1
    session.close()
    rng = np.random.default_rng(0)

    def shuffled(weights: onnx.TensorProto) -> None:
        weights.raw_data = rng.integers(-127, 128, tuple(weights.dims)).astype(np.int8).tobytes()

    def zeros(weights: onnx.TensorProto) -> None:
        weights.raw_data = bytes(len(weights.raw_data))

    def negative(weights: onnx.TensorProto) -> None:
        weights.raw_data = (-np.frombuffer(weights.raw_data, np.int8)).tobytes()

    for change in (shuffled, zeros, negative):
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(changed(load(made / "out.onnx"), change).SerializeToString())
        session = opened(damaged, provider)
        with pytest.raises(ProviderUnavailable, match="computes something else than the network: in int8"):
            check_session(session)
        session.close()


def changed(model: onnx.ModelProto, change: Callable[[onnx.TensorProto], None]) -> onnx.ModelProto:
    """The artifact with other int8 weights."""
    int8 = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert int8
    for weights in int8:
        change(weights)
    return model


def test_for_cuda_ranges_are_symmetric_and_every_node_has_a_kernel(made: Path, tmp_path: Path, photos: Path) -> None:
    save_core(tmp_path, 1)
    table = tmp_path / "table.json"
    lines = export(tmp_path, "--calibration", photos, "--save-table", table, "--precision", "int8", "--target", "cuda")
    assert "form for cuda: int8, 3 layers in float" in lines
    saved = CalibrationTable.model_validate_json(table.read_bytes()).int8
    assert saved is not None
    assert saved.symmetric
    model = load(tmp_path / "out.onnx")
    points = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("/zero_point")}
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points.values())
    assert missing_kernels(model) == []
    assert missing_kernels(load(made / "out.onnx")) == []


@pytest.mark.parametrize(
    ("times_s", "precision"), [([0.1, 0.3], "int8"), ([0.3, 0.1], "fp32")], ids=["int8 wins", "fp32 wins"]
)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_auto_takes_int8_if_it_passes_and_is_faster(
    made: Path, monkeypatch: pytest.MonkeyPatch, target: str, times_s: list[float], precision: str
) -> None:
    def timed(*_: object) -> list[float]:
        return times_s

    try:
        find_device("openvino")
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    monkeypatch.setattr(race, "_race", timed)
    lines = export(made, "--calibration", made / "table.json", "--target", target, output="auto.onnx")
    spec = spec_of(made / "auto.onnx")
    assert spec.precision == precision
    assert (spec.quantisation is None, spec.bf16 is None) == (precision == "fp32", precision == "int8")
    (form,) = (line for line in lines if line.startswith(f"form for {target}: "))
    assert form.startswith(f"form for {target}: {precision}, ")
    assert "int8, 3 layers in float" in form


def test_fp32_with_photos_is_fp32_that_knows_what_bf16_costs(made: Path, photos: Path) -> None:
    lines = export(made, "--calibration", photos, "--target", "cpu", "--precision", "fp32", output="fp32.onnx")
    spec = spec_of(made / "fp32.onnx")
    assert (spec.precision, spec.quantisation) == ("fp32", None)
    assert f"bf16: {spec.bf16}" in lines
    assert not [line for line in lines if line.startswith("int8")]


def test_a_gate_that_fails_writes_nothing(tmp_path: Path, photos: Path) -> None:
    save_core(tmp_path, 2)
    options = ("--calibration", photos, "--save-table", tmp_path / "table.json", "--target", "cpu")
    with pytest.raises(GateFailed, match=r"^int8 is too far from fp32: \d\d\.\d\d grey levels from fp32 \(at most 2\)"):
        export(tmp_path, *options, "--precision", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["core.onnx"]
    lines = export(tmp_path, *options)  # auto
    assert [line for line in lines if line.startswith("no int8: int8 is too far from fp32: ")]
    assert spec_of(tmp_path / "out.onnx").precision == "fp32"
    table = CalibrationTable.model_validate_json((tmp_path / "table.json").read_bytes())
    assert table.int8 is None


def test_a_network_whose_layers_are_all_outer_writes_nothing(tmp_path: Path, photos: Path) -> None:
    networks.save_brightness_core(tmp_path / "core.onnx")
    options = ("--calibration", photos, "--target", "cpu")
    with pytest.raises(ExportError, match="no layer can be int8"):
        export(tmp_path, *options, "--precision", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["core.onnx"]
    assert "no int8: no layer can be int8" in export(tmp_path, *options)
    assert spec_of(tmp_path / "out.onnx").precision == "fp32"


def test_a_broken_photo_writes_nothing(tmp_path: Path) -> None:
    save_core(tmp_path, 1)
    photos = quantised.save_photos(tmp_path / "photos")
    (photos / "004.png").write_bytes(b"not a photo")
    options = ("--calibration", photos, "--save-table", tmp_path / "table.json", "--target", "cpu")
    for precision in ("auto", "int8", "fp32"):
        with pytest.raises(ExportError, match=r"004\.png can't be read"):
            export(tmp_path, *options, "--precision", precision)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core.onnx", "photos"]


def test_a_table_for_other_weights_writes_nothing(tmp_path: Path, made: Path) -> None:
    save_core(tmp_path, 2)
    for precision in ("auto", "int8"):
        with pytest.raises(ExportError, match="for other weights"):
            export(tmp_path, "--calibration", made / "table.json", "--target", "cpu", "--precision", precision)
    assert [path.name for path in tmp_path.iterdir()] == ["core.onnx"]


def test_a_failing_parity_leaves_no_table(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise ExportError("the artifact differs from the network, nothing was written")

    monkeypatch.setattr(artifact_module, "check_parity", failing)
    save_core(tmp_path, 1)
    with pytest.raises(ExportError, match="nothing was written"):
        export(tmp_path, "--calibration", photos, "--save-table", tmp_path / "table.json", "--target", "cpu")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["core.onnx"]


def test_int8_by_name_without_photos_or_scikit_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        return None

    monkeypatch.setattr("mattebox_export.quantise.photos.importlib.util.find_spec", absent)
    save_core(tmp_path, 1)
    with pytest.raises(ExportError, match="give a folder of them by --calibration FOLDER"):
        export(tmp_path, "--precision", "int8", "--target", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["core.onnx"]


def test_the_note_of_scikit_images_photos(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    save_core(tmp_path, 1)
    lines = export(tmp_path, "--precision", "int8", "--target", "cpu")
    assert any("0.955" in line and "--calibration FOLDER" in line for line in lines)
    quantisation = spec_of(tmp_path / "out.onnx").quantisation
    assert quantisation is not None
    assert quantisation.calibration == "scikit-image's photos"


def test_u2netp_needs_neither_photos_nor_nncf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package has its table."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.delenv("XDG_CACHE_HOME")  # the weights are in the user's own
    options = ("--precision", "int8", "--target", "cpu", "-o", tmp_path / "u2netp.onnx")
    lines = run_export("u2netp", *options)
    quantisation = spec_of(tmp_path / "u2netp.onnx").quantisation
    assert quantisation is not None
    assert f"calibration table of {quantisation.calibration}" in lines
    assert quantisation.fidelity.passes
    session = opened(tmp_path / "u2netp.onnx", "cpu")
    assert check_session(session)["mean_levels"] <= 1
    session.close()
    with pytest.raises(ExportError, match="no int8 for cuda: give photos by --calibration FOLDER"):
        run_export("u2netp", "--precision", "int8", "--target", "cuda", "-o", tmp_path / "cuda.onnx")
    assert not (tmp_path / "cuda.onnx").exists()


# The command line.


def test_defaults_of_the_command_line(tmp_path: Path) -> None:
    arguments = parse_arguments(["u2netp"])
    assert not isinstance(arguments, Path)
    assert (arguments.precision, arguments.calibration, arguments.save_table) == ("auto", None, None)
    words = ["u2netp", "--precision", "int8", "--calibration", str(tmp_path), "--save-table", "t.json"]
    arguments = parse_arguments(words)
    assert not isinstance(arguments, Path)
    assert (arguments.precision, arguments.calibration) == ("int8", tmp_path)
    assert arguments.save_table == Path("t.json")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--precision", "int4"], "invalid choice"),
        (["--precision", "fp16", "--target", "cuda", "--calibration", "."], "--calibration is not for fp16"),
        (["--save-table", "t.json"], "--save-table needs --calibration FOLDER"),
        (["--save-table", "t.json", "--calibration", "nowhere"], "--save-table needs --calibration FOLDER"),
        (["--save-table", "t.json", "--calibration", __file__], "--save-table needs --calibration FOLDER"),
    ],
)
def test_wrong_options(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["u2netp", *words])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
