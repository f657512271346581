"""Networks as people have them: each is brought to normal form, and the artifact computes what numpy says it should."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import images
from conftest import run_export
from mattebox_export.catalogue import CATALOGUE
from mattebox_export.errors import ExportError
from mattebox_export.named_core import named_core
from mattebox_export.normal_form import prepare

SIDE = 16
FREE: tuple[int | str, ...] = ("n", 3, "h", "w")
FIXED: tuple[int | str, ...] = (1, 3, SIDE, SIDE)
LAST: tuple[int | str, ...] = (1, SIDE, SIDE, 3)
UNNORMALISED = ("--mean", "0,0,0", "--std", "1,1,1")
MEAN = np.full((1, 3, 1, 1), 1 / 3, np.float32)  # a convolution that gives the mean of red, green and blue
node = helper.make_node


def weights(name: str, values: object, dtype: type[np.generic] = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


@dataclass
class Net:
    """A network of a few nodes, from `x` to `y`."""

    nodes: Sequence[onnx.NodeProto]
    weights: Sequence[onnx.TensorProto] = ()
    takes: tuple[int, Sequence[int | str]] = (TensorProto.FLOAT, FREE)
    gives: Sequence[tuple[str, int, Sequence[int | str] | None]] = (("y", TensorProto.FLOAT, None),)
    opset: int = 18
    imports: Sequence[onnx.OperatorSetIdProto] = ()
    functions: Sequence[onnx.FunctionProto] = field(default_factory=list[onnx.FunctionProto])

    def save(self, path: Path) -> Path:
        value = helper.make_tensor_value_info
        outputs = [value(*each) for each in self.gives]
        graph = helper.make_graph(self.nodes, "net", [value("x", *self.takes)], outputs, list(self.weights))
        opsets = [helper.make_opsetid("", self.opset), *self.imports]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path


def export(folder: Path, net: Net, *options: str) -> tuple[Path, list[str]]:
    core = net.save(folder / "core.onnx")
    lines = run_export("custom", "--core", core, "--target", "cpu", "-o", folder / "out.onnx", *options)
    return folder / "out.onnx", lines


def foreground(artifact: Path, photo: images.Bytes, **more: NDArray[np.float32]) -> images.Bytes:
    """The artifact's foreground of a photo uint8 (H, W, 3) RGB."""
    session = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    (found,) = session.run(["foreground"], {"image": photo[np.newaxis, ..., ::-1], **more})
    return np.asarray(found[0], np.uint8)


def brightness(photo: images.Bytes) -> NDArray[np.float64]:
    return np.asarray(photo.mean(-1) / 255, np.float64)


def shrunk_and_grown(photo: images.Bytes) -> NDArray[np.float64]:
    """Every second pixel of the brightness, doubled in size as the first Upsample does it: y[i] = x[i / 2]."""
    small = brightness(photo)[::2, ::2]
    places = np.minimum(np.arange(SIDE) / 2, SIDE // 2 - 1)
    low = places.astype(int)
    high = np.minimum(low + 1, SIDE // 2 - 1)
    share = places - low
    rows = small[low] * (1 - share)[:, None] + small[high] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share, np.float64)


def repeated(photo: images.Bytes) -> NDArray[np.float64]:
    return np.asarray(np.kron(brightness(photo)[::2, ::2], np.ones((2, 2))), np.float64)


MIX = (node("Conv", ["x", "k"], ["y"]), weights("k", MEAN))
HALF = TensorProto.FLOAT16
half_kernel = weights("k16", MEAN, np.float16)
to_bytes = [
    node("Cast", ["x"], ["f"], to=1),
    node("Div", ["f", "full"], ["u"]),
    node("ReduceMean", ["u", "last"], ["y"]),
]
shrink = node("Conv", ["x", "k"], ["small"], strides=[2, 2])
grow = weights("grow", [1, 1, 2, 2])
double = helper.make_function(
    "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
)

NETS: dict[str, tuple[Net, Callable[[images.Bytes], NDArray[np.float64]], tuple[str, ...]]] = {
    "unsorted": (
        Net(
            [node("Sub", ["b", "a"], ["y"]), node("Add", ["a", "a"], ["b"]), node("Conv", ["x", "k"], ["a"])], [MIX[1]]
        ),
        brightness,
        (),
    ),
    "half-weights-behind-casts": (
        Net([node("Conv", ["x", "k"], ["y"]), node("Cast", ["k16"], ["k"], to=1)], [half_kernel]),
        brightness,
        (),
    ),
    "constants": (Net([node("Constant", [], ["k"], value=MIX[1]), MIX[0]]), brightness, ()),
    "half": (
        Net([MIX[0]], [weights("k", MEAN, np.float16)], (HALF, FREE), [("y", HALF, None)]),
        brightness,
        (),
    ),
    "half-between-casts": (
        Net(
            [
                node("Cast", ["x"], ["x16"], to=10),
                node("Conv", ["x16", "k16"], ["mean16"]),
                node("Cast", ["mean16"], ["mean"], to=1),
                node("Cast", ["mean"], ["again16"], to=10),
                node("Identity", ["again16"], ["same16"]),
                node("Cast", ["same16"], ["y"], to=1),
            ],
            [half_kernel],
        ),
        brightness,
        (),
    ),
    "double": (
        Net(
            [node("ReduceMean", ["x", "one"], ["y"])],
            [weights("one", [1], np.int64)],
            (TensorProto.DOUBLE, FIXED),
            [("y", TensorProto.DOUBLE, None)],
        ),
        brightness,
        (),
    ),
    "bytes-last": (
        Net(to_bytes, [weights("full", 255), weights("last", [3], np.int64)], (TensorProto.UINT8, LAST)),
        brightness,
        ("no flags",),
    ),
    "bytes-first": (
        Net(to_bytes, [weights("full", 255), weights("last", [1], np.int64)], (TensorProto.UINT8, FREE)),
        brightness,
        ("no flags",),
    ),
    "floats-last": (
        Net([node("ReduceMean", ["x", "last"], ["y"])], [weights("last", [3], np.int64)], (TensorProto.FLOAT, LAST)),
        brightness,
        (),
    ),
    "said-to-be-last": (
        Net(
            [node("ReduceMean", ["x", "last"], ["y"])],
            [weights("last", [3], np.int64)],
            (TensorProto.FLOAT, ("n", "h", "w", "c")),
        ),
        brightness,
        ("--layout", "nhwc"),
    ),
    "no-channel": (
        Net(
            [node("Conv", ["x", "k"], ["c"]), node("Squeeze", ["c", "one"], ["y"])],
            [MIX[1], weights("one", [1], np.int64)],
        ),
        brightness,
        (),
    ),
    "no-batch": (
        Net(
            [node("Conv", ["x", "k"], ["c"]), node("Squeeze", ["c", "both"], ["y"])],
            [MIX[1], weights("both", [0, 1], np.int64)],
            (TensorProto.FLOAT, FIXED),
        ),
        brightness,
        (),
    ),
    "second-output": (
        Net(
            [node("Neg", ["y"], ["z"]), MIX[0]],
            [MIX[1]],
            gives=[("z", TensorProto.FLOAT, None), ("y", TensorProto.FLOAT, None)],
        ),
        brightness,
        ("--output-name", "y"),
    ),
    "one-photo-at-a-time": (
        Net(
            [node("Reshape", ["x", "one"], ["r"]), node("Conv", ["r", "k"], ["y"])],
            [MIX[1], weights("one", [1, 3, SIDE, SIDE], np.int64)],
        ),
        brightness,
        (),
    ),
    "one-name-for-two-lengths": (Net([MIX[0]], [MIX[1]], (TensorProto.FLOAT, ("?", 3, "?", "?"))), brightness, ()),
    "names-that-the-artifact-has": (
        Net(
            [node("Conv", ["x", "k"], ["image"]), node("Identity", ["image"], ["foreground"])],
            [MIX[1]],
            gives=[("foreground", TensorProto.FLOAT, None)],
        ),
        brightness,
        (),
    ),
    "opsets-without-a-use": (
        Net(
            [MIX[0]], [MIX[1]], imports=[helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 3)]
        ),
        brightness,
        (),
    ),
    "function": (
        Net(
            [node("Conv", ["x", "k"], ["c"]), node("Twice", ["c"], ["y"], domain="own")],
            [weights("k", MEAN / 2)],
            imports=[helper.make_opsetid("own", 1)],
            functions=[double],
        ),
        brightness,
        (),
    ),
    "image-scaler": (
        Net(
            [node("ImageScaler", ["x"], ["s"], scale=0.5, bias=[0.3, 0.2, 0.1]), node("Conv", ["s", "k"], ["y"])],
            [MIX[1]],
            (TensorProto.FLOAT, FIXED),
            opset=9,
        ),
        lambda photo: brightness(photo) / 2 + 0.2,
        (),
    ),
    "upsample-linear": (
        Net([shrink, node("Upsample", ["small", "grow"], ["y"], mode="linear")], [MIX[1], grow], opset=9),
        shrunk_and_grown,
        (),
    ),
    "upsample-nearest": (
        Net([shrink, node("Upsample", ["small", "grow"], ["y"], mode="nearest")], [MIX[1], grow], opset=9),
        repeated,
        (),
    ),
    "resize-10": (
        Net([shrink, node("Resize", ["small", "grow"], ["y"], mode="linear")], [MIX[1], grow], opset=10),
        shrunk_and_grown,
        (),
    ),
    "dropout-and-batch-norm-9": (
        Net(
            [
                node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["b"], epsilon=0.0),
                node("Dropout", ["b"], ["d"], ratio=0.5),
                node("Conv", ["d", "k"], ["y"]),
            ],
            [MIX[1], weights("one", [1, 1, 1]), weights("zero", [0, 0, 0])],
            opset=9,
        ),
        brightness,
        (),
    ),
    "opset-24": (Net([MIX[0]], [MIX[1]], opset=24), brightness, ()),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_gives_what_numpy_says(tmp_path: Path, name: str) -> None:
    net, expected, options = NETS[name]
    options = () if options == ("no flags",) else (*UNNORMALISED, *options)
    size = () if SIDE in net.takes[1] else ("--resize", f"stretch:{SIDE}x{SIDE}")
    artifact, _ = export(tmp_path, net, *options, *size)
    photo = images.textured(SIDE, SIDE)
    slack = 1.01 if "half" in name else 0.51
    assert np.abs(foreground(artifact, photo) - 255 * expected(photo)).max() <= slack
    onnx.checker.check_model(artifact, full_check=True)  # pyright: ignore[reportUnknownMemberType]


def test_a_network_by_name_keeps_its_first_output_whatever_the_order_of_its_nodes(tmp_path: Path) -> None:
    """As in IS-Net's file, whose nodes are out of order and whose other outputs are for its training."""
    nodes = [
        node("Sub", ["b", "a"], ["y"]),
        node("Neg", ["a"], ["other"]),
        node("Add", ["a", "a"], ["b"]),
        node("Conv", ["x", "k"], ["a"]),
    ]
    gives = (("y", TensorProto.FLOAT, None), ("other", TensorProto.FLOAT, None))
    path = Net(nodes, [MIX[1]], gives=gives).save(tmp_path / "core.onnx")
    model = named_core(CATALOGUE["u2net"], path).model
    assert [each.op_type for each in model.graph.node] == ["Conv", "Add", "Sub"]
    assert [each.name for each in model.graph.output] == ["y"]


def test_casts_that_cast_nothing_any_more_are_dropped(tmp_path: Path) -> None:
    """NNCF doesn't quantise a graph that ends in one."""
    net, _, _ = NETS["half-between-casts"]
    prepared = prepare(onnx.load_model_from_string(net.save(tmp_path / "core.onnx").read_bytes()))
    assert [each.op_type for each in prepared.graph.node] == ["Conv", "Identity", "Identity"]


def test_what_was_found_in_the_file_is_said(tmp_path: Path) -> None:
    net, _, _ = NETS["bytes-last"]
    _, lines = export(tmp_path, net)
    assert "input x: uint8 NHWC, 16x16; it gets red, green and blue as they are, 0 to 255" in lines
    assert "output y" in lines
    net, _, _ = NETS["second-output"]
    _, lines = export(tmp_path, net, "--output-name", "y", "--resize", f"stretch:{SIDE}x{SIDE}", *UNNORMALISED)
    assert "output y; not used: z (--output-name chooses)" in lines
    assert any(line.startswith("input x: float32 NCHW, any size; it gets (RGB / 255 - mean) / std") for line in lines)
    net, _, _ = NETS["one-photo-at-a-time"]
    _, lines = export(tmp_path, net, *UNNORMALISED, "--resize", f"stretch:{SIDE}x{SIDE}")
    assert any(line.startswith("batch: fixed at 1") for line in lines)
    net, _, _ = NETS["half"]
    _, lines = export(tmp_path, net, *UNNORMALISED, "--resize", f"stretch:{SIDE}x{SIDE}")
    assert any(line.startswith("half precision: ") for line in lines)


def test_unnormalised_bytes_as_floats(tmp_path: Path) -> None:
    """A standard deviation of 1/255 leaves a float network the values 0 to 255."""
    net = Net([node("Conv", ["x", "k"], ["y"])], [weights("k", MEAN / 255)])
    options = ("--mean", "0,0,0", "--std", "1/255,1/255,1/255", "--resize", f"stretch:{SIDE}x{SIDE}")
    artifact, _ = export(tmp_path, net, *options)
    photo = images.textured(SIDE, SIDE)
    assert np.abs(foreground(artifact, photo) - 255 * brightness(photo)).max() <= 0.51


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_a_softmax_inside_counts_once(tmp_path: Path, last: bool) -> None:
    """Probabilities of two classes come out as they are, and not through a second softmax."""
    kernel = np.array([[2, -1, 1], [-2, 3, 0.5]], np.float32)
    nodes = [node("Conv", ["x", "k"], ["l"]), node("Softmax", ["l"], ["p"], axis=1)]
    nodes.append(node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1]) if last else node("Identity", ["p"], ["y"]))
    net = Net(nodes, [weights("k", kernel.reshape(2, 3, 1, 1))], (TensorProto.FLOAT, FIXED))
    artifact, lines = export(tmp_path, net, *UNNORMALISED, "--labels", "background,subject")
    assert "output y; its softmax is inside" in lines
    photo = images.textured(SIDE, SIDE)
    powers = np.exp(photo / 255 @ kernel.T.astype(float))
    found = foreground(artifact, photo, keep=np.array([[0, 1]], np.float32))
    assert np.abs(found - 255 * powers[..., 1] / powers.sum(-1)).max() <= 0.51


LOGITS = Net([node("Conv", ["x", "k"], ["y"])], [weights("k", 20 * MEAN - 5)], (TensorProto.FLOAT, FIXED))
SHARP = Net(
    [node("Conv", ["x", "k"], ["l"]), node("Sigmoid", ["l"], ["y"])], LOGITS.weights, (TensorProto.FLOAT, FIXED)
)


def test_logits_need_an_activation_and_a_sigmoid_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--activation sigmoid \(of logits\) or minmax"):
        export(tmp_path, LOGITS, *UNNORMALISED)
    warned = {
        "cut off": export(tmp_path, LOGITS, *UNNORMALISED, "--activation", "none")[1],
        "one too many": export(tmp_path, SHARP, *UNNORMALISED, "--activation", "sigmoid")[1],
    }
    for says, lines in warned.items():
        assert any(line.startswith("warning: ") and says in line for line in lines)
    for fitting in (
        export(tmp_path, LOGITS, *UNNORMALISED, "--activation", "sigmoid")[1],
        export(tmp_path, SHARP, *UNNORMALISED)[1],
    ):
        assert not any(line.startswith("warning") for line in fitting)


def constant(value: float) -> Net:
    net = Net([node("Mul", ["x", "c"], ["m"]), node("Add", ["m", "v"], ["a"]), node("ReduceMean", ["a", "one"], ["y"])])
    net.weights = [weights("c", 0), weights("v", value), weights("one", [1], np.int64)]
    net.takes = (TensorProto.FLOAT, FIXED)
    return net


def test_a_map_that_is_the_same_everywhere_is_pointed_out(tmp_path: Path) -> None:
    _, lines = export(tmp_path, constant(0.5))
    assert any(line.startswith("warning: ") and "the same everywhere" in line for line in lines)


def strided() -> Net:
    """Adds a map to itself after halving and doubling it five times, which works for multiples of 32 only."""
    nodes = [node("Conv", ["x", "k"], ["d0"])]
    nodes += [node("MaxPool", [f"d{i}"], [f"d{i + 1}"], kernel_shape=[2, 2], strides=[2, 2]) for i in range(5)]
    nodes += [node("Resize", ["d5", "", "grow"], ["g"], mode="nearest"), node("Mul", ["g", "d0"], ["y"])]
    return Net(nodes, [weights("k", MEAN), weights("grow", [1, 1, 32, 32])])


REFUSED: dict[str, tuple[Net, tuple[str, ...], str]] = {
    "grey": (Net([MIX[0]], [weights("k", [[[[1]]]])], (1, (1, 1, 8, 8))), (), "must have 3 channels"),
    "four-channels": (Net([node("Identity", ["x"], ["y"])], (), (1, (1, 8, 8, 4))), (), "must have 3 channels"),
    "batch": (Net([MIX[0]], [MIX[1]], (1, (8, 3, 8, 8))), (), "its batch must be free or 1, not 8"),
    "one-side-free": (Net([MIX[0]], [MIX[1]], (1, (1, 3, "h", 8))), (), "height and width must both be"),
    "ambiguous": (Net([MIX[0]], [MIX[1]], (1, (1, 3, 8, 3))), (), "Say it by --layout nchw or nhwc"),
    "rank": (Net([node("Identity", ["x"], ["y"])], (), (1, (3, 8, 8))), (), "must have 4 dimensions"),
    "whole-numbers": (Net([node("Identity", ["x"], ["y"])], (), (7, FIXED)), (), "float, float16, double or uint8"),
    "flags-for-bytes": (NETS["bytes-last"][0], ("--mean", "0,0,0"), "--mean and --std are not for the input x"),
    "no-such-output": (NETS["second-output"][0], ("--output-name", "q"), "has no such output, it has z, y"),
    "classes": (
        Net([node("ArgMax", ["x"], ["y"], axis=1)], (), (1, FIXED), [("y", TensorProto.INT64, None)]),
        (),
        "numbers of classes, which have no soft edges; export the network without its ArgMax",
    ),
    "two-channels": (
        Net([MIX[0]], [weights("k", np.ones((2, 3, 1, 1)))], (1, FIXED)),
        (),
        r"this one gives 2: name its classes by --labels \(such as background,subject\)",
    ),
    "one-channel": (Net([MIX[0]], [MIX[1]], (1, FIXED)), ("--labels", "background,b"), "leave --labels out"),
    "no-map": (Net([node("Flatten", ["x"], ["y"])], (), (1, FIXED)), (), "it must be a map"),
    "not-finite": (
        Net([node("Log", ["x"], ["l"]), node("ReduceMean", ["l"], ["y"], axes=[1])], (), (1, FIXED), opset=13),
        (),
        "not finite on a photo: are --mean and --std right",
    ),
    "multiples-of-32": (
        strided(),
        (),
        "on a photo of 600x450, but on one of 608x448.*--resize stretch:512x512",
    ),
    "foreign": (
        Net(
            [node("Gelu", ["x"], ["y"], domain="com.microsoft")],
            (),
            (1, FIXED),
            imports=[helper.make_opsetid("com.microsoft", 1)],
        ),
        ("--labels", "background,b,c"),
        r"not ONNX's own: com\.microsoft\.Gelu",
    ),
    "unknown": (Net([node("Frobnicate", ["x"], ["y"])], (), (1, FIXED)), (), "ONNX Runtime doesn't load .*Frobnicate"),
    "circle": (
        Net([node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["y"])], (), (1, FIXED)),
        (),
        "ONNX Runtime doesn't load",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    net, options, says = REFUSED[name]
    with pytest.raises(ExportError, match=says) as caught:
        export(tmp_path, net, *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_of_ours_is_no_core(colour_model: Path) -> None:
    with pytest.raises(ExportError, match="is a Mattebox model already: mattebox-server --model"):
        run_export("custom", "--core", colour_model)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(MEAN.tobytes())
    tensor = weights("k", MEAN)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    core = Net([MIX[0]], [tensor]).save(tmp_path / "inner" / "core.onnx")
    with pytest.raises(ExportError, match="outside its own folder"):
        run_export("custom", "--core", core)


def test_weights_of_more_than_a_file_can_have_are_refused(tmp_path: Path) -> None:
    tensor = weights("k", MEAN)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(2**31)  # a hole, which takes no room
    with pytest.raises(ExportError, match="more than 2 GB of weights"):
        run_export("custom", "--core", Net([MIX[0]], [tensor]).save(tmp_path / "core.onnx"))


def test_a_cut_file_is_not_whole(tmp_path: Path) -> None:
    data = NETS["upsample-linear"][0].save(tmp_path / "core.onnx").read_bytes()
    for length in range(1, len(data) - 1, 7):
        (tmp_path / "core.onnx").write_bytes(data[:length])
        with pytest.raises(ExportError, match=r"not a whole ONNX file|doesn't load|no output|must have one input"):
            run_export("custom", "--core", tmp_path / "core.onnx")
