"""Weights are read from torch's files and safetensors without torch, and nothing in a file is executed."""

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import checkpoints as c
import networks
from mattebox_export.checkpoint import parse_checkpoint, read_checkpoint
from mattebox_export.errors import ExportError

VALUES = np.arange(12, dtype=np.float32) - 4.5
RAW = VALUES.tobytes()
WHOLE = c.tensor(c.storage("0", 12), (3, 4), (4, 1))


def read(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    return parse_checkpoint(data, Path("small.pth"))


def refused(data: bytes, says: str) -> None:
    with pytest.raises(ExportError) as caught:
        read(data)
    assert says in str(caught.value)
    assert str(caught.value).startswith("small.pth is not a state dict: ")
    assert str(caught.value).isprintable()


def both(operations: bytes, raw: bytes = RAW, numel: int = 12) -> list[bytes]:
    """The same content in both formats of torch."""
    old = {"0": (numel, raw)} if c.text("storage") in operations else {}  # which lists only what is used
    return [c.zipped(operations, {"0": raw}), c.legacy(operations, old)]


def test_state_dicts_of_both_formats() -> None:
    shared = c.tensor(c.storage("0", 12), (4, 2), (1, 4), offset=4)  # transposed, and of the same storage
    scalar = c.tensor(c.storage("0", 12), (), (), offset=11)
    metadata = c.table({"_metadata": c.table({}, c.call(c.ODICT))}) + b"b"
    content = c.table({"a": WHOLE, "b": shared, "c": scalar}, c.call(c.ODICT)) + metadata
    for data in both(content):
        state = read(data)
        assert list(state) == ["a", "b", "c"]
        assert_array_equal(state["a"], VALUES.reshape(3, 4))
        assert_array_equal(state["b"], VALUES[4:].reshape(2, 4).T)
        assert_array_equal(state["c"], VALUES[11])
        assert not state["a"].flags.writeable
        assert state["a"].base is not None  # nothing was copied


def test_what_older_and_newer_torch_writes() -> None:
    """Texts of Python 2, protocol 4, parameters, parts of storages, a tensor of version 1."""
    python_2 = b"}U\x01a" + WHOLE + b"s"
    framed = b"\x95" + struct.pack("<Q", 3) + b"}" + b"\x94" + b"\x8c\x01a" + WHOLE + b"s"
    by_stack = b"}" + c.text("a") + c.text("torch._utils") + c.text("_rebuild_tensor_v2") + b"\x93"
    by_stack += WHOLE.removeprefix(c.REBUILD) + b"s"
    parameter = c.table({"a": c.call(b"ctorch._utils\n_rebuild_parameter\n", WHOLE, c.TRUE, c.call(c.ODICT))})
    plain = b"ctorch._utils\n_rebuild_tensor\n", c.storage("0", 12), c.number(0), c.numbers((3, 4)), c.numbers((4, 1))
    memo = b"}" + c.text("a") + b"q\x07" + WHOLE + b"r\xff\xff\xff\xff" + b"s"
    for content in (python_2, framed, by_stack, parameter, c.table({"a": c.call(*plain)}), memo):
        for data in both(content):
            assert_array_equal(read(data)["a"], VALUES.reshape(3, 4))
    part = c.row(c.text("part"), c.number(5), c.number(4))
    view = c.table({"a": c.tensor(c.storage("0", 12, part), (2, 2), (2, 1))})
    assert_array_equal(read(c.legacy(view, {"0": (12, RAW)}))["a"], VALUES[5:9].reshape(2, 2))
    whole = c.table({"a": c.tensor(c.storage("0", 12, c.NONE), (3, 4), (4, 1))})
    assert_array_equal(read(c.legacy(whole, {"0": (12, RAW)}))["a"], VALUES.reshape(3, 4))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Double", np.array([1.5, -2e300])),
        ("Half", np.array([1.5, -6e4], np.float16)),
        ("Long", np.array([1, -(2**60)])),
        ("Int", np.array([1, -(2**30)], np.int32)),
        ("Short", np.array([1, -300], np.int16)),
        ("Char", np.array([1, -3], np.int8)),
        ("Byte", np.array([1, 200], np.uint8)),
        ("Bool", np.array([True, False])),
    ],
)
def test_element_types(kind: str, values: np.ndarray[Any, Any]) -> None:
    where = c.storage("0", 2, kind=f"ctorch\n{kind}Storage\n".encode())
    for data in both(c.table({"a": c.tensor(where, (2,), (1,))}), values.tobytes(), 2):
        found = read(data)["a"]
        assert found.dtype == values.dtype
        assert_array_equal(found, values)
    swapped = c.zipped(
        c.table({"a": c.tensor(where, (2,), (1,))}), {"0": values.byteswap().tobytes()}, byteorder=b"big"
    )
    assert_array_equal(read(swapped)["a"], values)


def test_bfloat16_becomes_float32() -> None:
    """bfloat16 is the upper half of float32."""
    exact = np.array([1.0, -2.5, 0.15625], np.float32)
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
    where = c.storage("0", 3, kind=b"ctorch\nBFloat16Storage\n")
    for data in both(c.table({"a": c.tensor(where, (3,), (1,))}), halves.tobytes(), 3):
        assert_array_equal(read(data)["a"], exact, strict=True)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    assert_array_equal(read(c.safetensors(header, halves.tobytes()))["a"], exact, strict=True)


def test_wrappers_are_taken_off() -> None:
    """Training scripts nest the state dict beside options, and DataParallel gives all names a prefix."""
    options = b"cargparse\nNamespace\n)\x81" + c.table({"lr": c.number(3)}) + b"b"
    inner = c.table({"module.a": WHOLE, "module.b": WHOLE.replace(c.numbers((3, 4)), c.numbers((2, 3)))})
    script = {"model": inner, "epoch": c.number(3), "args": options, "optimizer": c.table({"state": b"}K\x01Ns"})}
    data = c.zipped(c.table(script), {"0": RAW}, padding=bytes(200))
    assert list(read(data)) == ["a", "b"]
    mixed = c.zipped(c.table({"module.a": WHOLE, "b": c.tensor(c.storage("0", 12), (1,), (1,))}), {"0": RAW})
    assert list(read(mixed)) == ["module.a", "b"]


SYSTEM = b"cos\nsystem\n"
ATTACKS = {
    "a call": (c.table({"a": c.call(SYSTEM, c.text("true"))}), "import os.system,"),
    "by the stack": (c.text("os") + c.text("system") + b"\x93", "import os.system,"),
    "of builtins": (b"cbuiltins\neval\n", "import builtins.eval,"),
    "of python 2": (b"c__builtin__\ngetattr\n", "import __builtin__.getattr,"),
    "an unprintable name": (c.text("os\x1b[2J\n") + c.text("\u202e") + b"\x93", r"import os\x1b[2J\n.\u202e,"),
    "no name": (b"NN\x93", "without a name"),
    "a nested name": (c.text("os") + b"N" + b"\x85" * 5000 + b"\x93", "without a name"),
    "an endless name": (c.text("os") + c.text("x" * 9999) + b"\x93", "xxx..."),
    "a network": (b"ctorchvision.models.segmentation.deeplabv3\nDeepLabV3\n)\x81", "save network.state_dict()"),
    "a module by id": (c.row(c.text("module"), c.NONE, c.NONE, c.NONE) + b"Q", "a whole network"),
    "instances": (b"(ios\nsystem\n", "operation INST"),
    "objects": (b"(" + c.ODICT + b"o", "operation OBJ"),
    "extensions": (b"\x82\x01", "operation EXT1"),
    "an id of text": (b"Pnowhere\n", "operation PERSID"),
    "another id": (c.text("0") + b"Q", "not a torch storage"),
    "an id of another kind": (c.row(c.text("file"), c.text("/etc/passwd")) + b"Q", "not a torch storage"),
    "copies": (b"}2", "operation DUP"),
    "a call of text": (c.call(c.text("os.system"), c.text("true")), "not a function"),
    "a call of a type": (c.call(c.FLOAT, c.number(3)), "not a function"),
    "arguments of text": (c.ODICT + c.text("abc") + b"R", "not a function"),
    "the state of a type": (c.FLOAT + b"}b", "state of an object"),
    "the state of a tensor": (WHOLE + b"}b", "state of an object"),
    "a tuple as key": (b"}" + c.row(c.text("a")) + c.NONE + b"s", "key of type tuple"),
    "a float as key": (b"}G" + struct.pack(">d", 1) + c.NONE + b"s", "key of type float"),
    "a long number as key": (b"}" + c.number(2**61 - 1) + c.NONE + b"s", "key of type int"),
    "items of a tuple": (b")" + c.text("a") + c.NONE + b"s", "not a dict"),
    "appended to a dict": (b"}Na", "not a list"),
    "odd items": (b"}(" + c.text("a") + b"u", "damaged"),
    "an empty stack": (b"a", "damaged"),
    "no mark": (b"t", "damaged"),
    "nothing remembered": (b"h\x05", "damaged"),
    "an unknown operation": (b"\xff", "damaged"),
    "a text that ends early": (b"X\xff\xff\xff\x7fa", "damaged"),
    "pairs of Python 2": (c.call(c.ODICT, b"](" + b"](" + c.text("a") + b"Nee"), "Python 3"),
    "a tensor of nothing": (c.call(c.REBUILD), "without a storage"),
    "a parameter of nothing": (c.call(b"ctorch._utils\n_rebuild_parameter\n", c.NONE), "without a tensor"),
    "a list": (b"]", "it holds a list"),
    "a tensor alone": (WHOLE, "it holds a tensor"),
    "no tensors": (b"}", "it holds nothing"),
    "numbers": (c.table({"model": c.table({"a": c.number(1)})}), "its a is a int"),
    "a number as name": (b"}K\x01" + WHOLE + b"s", "its 1 is a tensor"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_pickles_that_want_more_than_a_state_dict_needs(attack: str) -> None:
    operations, says = ATTACKS[attack]
    for data in both(operations):
        refused(data, says)


TENSORS = {
    "beyond the end": (c.tensor(c.storage("0", 12), (3, 4), (4, 1), offset=1), "not inside"),
    "strides beyond the end": (c.tensor(c.storage("0", 12), (2, 2), (11, 1)), "not inside"),
    "no strides": (c.tensor(c.storage("0", 12), (3, 4), ()), "not inside"),
    "much of little": (c.tensor(c.storage("0", 12), (13,), (0,)), "not inside"),
    "very much of little": (c.tensor(c.storage("0", 12), (10**6, 10**6), (0, 0)), "larger than the file"),
    "empty": (c.tensor(c.storage("0", 12), (0, 2**40), (1, 1)), "empty tensor"),
    "a negative offset": (c.tensor(c.storage("0", 12), (3,), (1,), offset=-1), "not a length"),
    "a negative side": (c.tensor(c.storage("0", 12), (-3,), (1,)), "not a length"),
    "a negative stride": (c.tensor(c.storage("0", 12), (3,), (-1,), offset=3), "not a length"),
    "a long side": (c.tensor(c.storage("0", 12), (2**300,), (1,)), "not a length"),
    "too many sides": (c.tensor(c.storage("0", 12), (1,) * 65, (1,) * 65), "not a shape"),
    "a boolean": (WHOLE.replace(c.number(4), c.TRUE), "not a length"),
    "a shape of text": (WHOLE.replace(c.numbers((3, 4)), c.text("34")), "not a shape"),
    "a larger storage": (c.tensor(c.storage("0", 13), (3, 4), (4, 1)), "small"),
    "a smaller storage": (c.tensor(c.storage("0", 11), (3,), (1,)), "small"),
    "another storage": (c.tensor(c.storage("1", 12), (3, 4), (4, 1)), "small"),
    "another type": (c.tensor(c.storage("0", 12, kind=b"ctorch\nDoubleStorage\n"), (3,), (1,)), "small"),
    "a type without name": (c.tensor(c.storage("0", 12, kind=b"ctorch\nQInt8Storage\n"), (3,), (1,)), "QInt8Storage"),
    "a part beyond the end": (
        c.tensor(c.storage("0", 12, c.row(c.text("p"), c.number(10), c.number(3))), (3,), (1,)),
        "not inside",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_in_their_storage(name: str) -> None:
    operations, says = TENSORS[name]
    for data in both(c.table({"a": operations})):
        refused(data, says)


def test_tensors_are_together_no_larger_than_the_file() -> None:
    views = c.table({f"{index}": c.tensor(c.storage("0", 1000), (10, 100), (100, 1)) for index in range(9)})
    for data in both(views, bytes(4000), 1000):
        assert len(data) < 9 * 4000
        refused(data, "larger than the file")


def test_a_storage_has_one_type() -> None:
    other = c.tensor(c.storage("0", 12, kind=b"ctorch\nIntStorage\n"), (3,), (1,))
    for data in both(c.table({"a": WHOLE, "b": other})):
        refused(data, "in two ways")


def test_pickles_that_would_take_forever_or_all_memory() -> None:
    """A memo of 4 billion entries, nesting that ends C's stack when it is hashed, and operations without end."""
    deep = b"N" + b"\x85" * 200_000
    for content, says in (
        (b"}r\xff\xff\xff\xff", "holds nothing"),
        (b"}" + deep + c.NONE + b"s", "key of type tuple"),
        (c.table({"a": deep}), "its a is a tuple"),
        (b"]" * 200_000 + b"a" * 199_999, "it holds a list"),
        (b"N" * 1_000_001, "operations"),
        (b"\x8b\xff\xff\xff\x7f", "damaged"),
    ):
        for data in both(content):
            refused(data, says)


def archived(change: str) -> bytes:
    """The small archive with one thing wrong."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        deflated = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
        archive.writestr(
            "other/data.txt" if change == "no pickle" else "small/data.pkl", c.pickled(c.table({"a": WHOLE}))
        )
        if change != "no storage":
            archive.writestr("small/data/0", RAW[:-4] if change == "short" else RAW, deflated)
        if change == "twice":
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("small/data/0", RAW)
        if change == "two pickles":
            archive.writestr("more/data.pkl", b"")
        if change == "byte order":
            archive.writestr("small/byteorder", b"pdp")
    data = file.getvalue()
    return data.replace(RAW, RAW[::-1]) if change == "checksum" else data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("compressed", "compressed"),
        ("twice", "two members of one name"),
        ("no pickle", "no data.pkl"),
        ("two pickles", "no data.pkl"),
        ("no storage", "lacks data/0"),
        ("short", "another size"),
        ("checksum", "checksum"),
        ("byte order", "byte order"),
    ],
)
def test_archives_that_torch_does_not_write(change: str, says: str) -> None:
    refused(archived(change), says)


def test_members_that_share_bytes_are_refused() -> None:
    """Many names for the same bytes would make a small file large."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        tensors = {f"{i}": c.tensor(c.storage(f"{i}", 300), (1,), (1,)) for i in range(2)}
        archive.writestr("small/data.pkl", c.pickled(c.table(tensors)))
        archive.writestr("small/data/0", bytes(1200))
        archive.writestr("small/data/1", bytes(1200))
        second = archive.getinfo("small/data/1")
        second.header_offset = archive.getinfo("small/data/0").header_offset
    data = file.getvalue()
    cut = data.rindex(b"PK\x03\x04")
    shorter = data[:cut] + data[data.index(b"PK\x01\x02") :]
    end = shorter.rindex(b"PK\x05\x06")
    shorter = shorter[: end + 16] + struct.pack("<I", shorter.index(b"PK\x01\x02")) + shorter[end + 20 :]
    refused(shorter, "overlap")


def test_old_files_that_are_not_whole() -> None:
    good = c.legacy(c.table({"a": WHOLE}), {"0": (12, RAW)})
    assert_array_equal(read(good)["a"], VALUES.reshape(3, 4))
    refused(good[:-1], "not whole")
    refused(good[: -len(RAW) - 3], "not whole")
    refused(c.legacy(c.table({"a": WHOLE}), {"0": (11, RAW)}), "another size")
    refused(c.legacy(c.table({"a": WHOLE}), {"9": (12, RAW)}), "doesn't mention")
    refused(c.legacy(c.table({"a": WHOLE}), {}), "lacks its storage 0")
    refused(good.replace(c.pickled(c.number(1001)), c.pickled(c.number(1002))), "another version")
    refused(good.replace(c.pickled(c.number(1001)), c.pickled(b"N" + b"\x85" * 5000)), "another version")
    refused(good.replace(c.pickled(c.number(1001)), c.pickled(c.number(10**600))), "another version")
    refused(good.replace(c.pickled(b"](" + c.text("0") + b"e"), c.pickled(c.NONE)), "no list")
    for length in range(16, len(good) - 60):
        refused(good[:length], "")


def header(**changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48], **changes}
    return json.dumps({"__metadata__": {"format": "pt"}, "a": entry}).encode()


def test_safetensors() -> None:
    assert_array_equal(read(c.safetensors(header(), RAW))["a"], VALUES.reshape(3, 4), strict=True)
    module = pytest.importorskip("safetensors.numpy")
    arrays = {"x": VALUES.reshape(2, 6), "y": np.array(3), "z": VALUES.astype(np.float16)}
    state = read(module.save(arrays, {"made": "by the package"}))
    assert state.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_array_equal(state[name], array, strict=True)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (header(data_offsets=[0, 52]), "not whole"),
        (header(data_offsets=[-4, 44]), "not whole"),
        (header(data_offsets=[48, 0]), "not whole"),
        (header(data_offsets=[0, 44]), "not whole"),
        (header(shape=[3, 5]), "not whole"),
        (header(shape=[-3, -4]), "no shape"),
        (header(shape=[True, 12]), "no shape"),
        (header(shape=[3.0, 4]), "no shape"),
        (header(shape=[0, 2**70]), "no shape"),
        (header(shape=[1] * 65), "no shape"),
        (header(shape="3x4"), "where a is"),
        (header(data_offsets=[0]), "where a is"),
        (header(dtype="F8_E5M2"), "F8_E5M2"),
        (b'{"__metadata__": {}}', "it holds nothing"),
        (b'{"a": 3}', "where a is"),
        (b"{}".replace(b"}", b'"a": 1, "a": 2}'), "damaged JSON"),
        (b"{" + b"[" * 100_000, "damaged JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged JSON"),
        (b"{\xff}", "damaged JSON"),
        (header()[:-1], "damaged JSON"),
    ],
)
def test_wrong_safetensors(head: bytes, says: str) -> None:
    refused(c.safetensors(head, RAW), says)


def test_safetensors_that_overlap_or_end_early() -> None:
    entry = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
    refused(c.safetensors(json.dumps({"a": entry, "b": entry}).encode(), RAW), "not whole")
    refused(struct.pack("<Q", 2**60) + header(), "longer than the file")
    refused(c.safetensors(header(), RAW[:-1]), "not whole")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html>Not found", "web page"),
        (b"<HTML>", "web page"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "TFLite"),
        (gzip.compress(RAW), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (c.pickled(b"}"), "pickle that torch.save didn't write"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"hello", "neither"),
        (b"PK\x03\x04", "damaged zip"),
        (RAW, "neither"),
    ],
)
def test_files_that_hold_no_weights(data: bytes, says: str) -> None:
    refused(data, says)


def test_an_onnx_file_is_named(tmp_path: Path) -> None:
    core = networks.save_half_size_core(tmp_path / "core.onnx")
    with pytest.raises(ExportError, match=r"ONNX file.*custom --core"):
        read_checkpoint(core)
    assert onnx.load_model_from_string(core.read_bytes()).graph.node


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no weights file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ExportError, match="can't read"):
        read_checkpoint(tmp_path)


GOOD = [
    *both(c.table({"a": WHOLE, "b": c.tensor(c.storage("0", 12), (4,), (2,))}, c.call(c.ODICT))),
    c.safetensors(header(), RAW),
]


@pytest.mark.filterwarnings("ignore:invalid escape")  # of pickletools, about texts of protocol 0
@settings(max_examples=600, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject) -> None:
    """Bytes are changed, cut out and put in, also in a pickle whose archive fits it; nothing but ExportError comes."""
    pickle = c.table({"a": WHOLE, "b": WHOLE}, c.call(c.ODICT))
    inside = data.draw(st.booleans())
    damaged = bytearray(pickle if inside else data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged)))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file = c.zipped(bytes(damaged), {"0": RAW}) if inside else bytes(damaged)
    try:
        state = read(file)
    except ExportError:
        return
    assert sum(array.nbytes for array in state.values()) <= 2 * len(file)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves(tmp_path: Path, zipped: bool, protocol: int) -> None:
    """Strided, shared and scalar tensors of all types, and a network's own state dict with its metadata."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    base = torch.randn(6, 4)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state: dict[str, Any] = network.state_dict()
    state |= {"whole": base, "transposed": base.T, "part": base[2:, 1::2], "scalar": torch.tensor(2.5)}
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[dtype] = (10 * torch.randn(5)).to(getattr(torch, dtype))
    state["parameter"] = torch.nn.Parameter(torch.randn(2))
    saved = {"model": state, "epoch": 1, "optimizer": torch.optim.SGD(network.parameters(), 0.1).state_dict()}
    path = tmp_path / "saved.pth"
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    found = read_checkpoint(path)
    expected = torch.load(path, weights_only=True)["model"] if protocol == 2 else state
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        plain = value.detach().float() if key == "bfloat16" else value.detach()
        assert_array_equal(found[key], plain.numpy(), strict=True)
