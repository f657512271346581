"""Models that are asked for by name: made once, in the cache folder, while the server is not serving."""

import hashlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import psutil
import pytest

import checkpoints
import images
import mattebox
import networks
from altered import altered_server
from file_server import Files, serve
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

PHOTO = images.encode(images.textured(16, 16))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A saliency network that gives the mean of the colours."""
    return networks.save_brightness_core(tmp_path_factory.mktemp("core") / "core.onnx", 16).read_bytes()


def alter(url: str, network: bytes, **facts: object) -> str:
    """Python code that puts the network into the catalogue, under a name of rembg's."""
    digest = f"sha256:{hashlib.sha256(network).hexdigest()}"
    return (
        "from dataclasses import replace\n"
        "from mattebox_export import catalogue as c\n"
        f"source = c.Source({url!r} + '/net.onnx', 0.001, {digest!r})\n"
        "plain = c.Normalisation((0, 0, 0), (1, 1, 1))\n"
        "c.CATALOGUE['u2net'] = replace(c.CATALOGUE['u2net'], source=source, normalisation=plain, activation='none',"
        f" input_px=(16, 16), **{facts!r})\n"
    )


def server_of(altered: str, cache: Path, *flags: str, model: str = "u2net") -> LocalServer:
    """A server of a network of the altered catalogue, whose exporter has the same catalogue."""
    child = f"{altered}from mattebox_export import cli; raise SystemExit(cli.main())"
    command = f"import sys; from mattebox_server import named; named._COMMAND = (sys.executable, '-c', {child!r})"
    return altered_server([model], ["--cache-dir", str(cache), "--provider", "cpu", *flags], altered, command)


def steps(server: LocalServer) -> list[str]:
    return [event["step"] for event in server.events if event["event"] == "making the model"]


def test_a_model_is_made_while_the_server_is_not_serving(tmp_path: Path, network: bytes) -> None:
    files = Files(network, gate=Event())
    assert files.gate is not None
    with serve(files) as url, ThreadPoolExecutor(1) as pool:
        server = server_of(alter(url, network), tmp_path)
        starting = pool.submit(server.__enter__)
        try:
            address = wait_for(server, "listening")["address"]
            wait_for(server, "making the model")
            with mattebox.Client(address, retries=0) as client, pytest.raises(mattebox.Unavailable, match="starting"):
                client.models()
            assert not starting.done()
        finally:
            files.gate.set()
        with starting.result(), mattebox.Client(server.address) as client:
            result = client.remove_background(
                PHOTO, output=mattebox.Output(format="raw", alpha_only=True), matte="none"
            )
            (model,) = client.models().models
        lines = steps(server)
        assert model.name == "u2net"
        assert (model.licence, model.non_commercial, model.untrained) == ("Apache-2.0", False, False)
        bright = images.textured(16, 16).mean(-1) >= 127.5
        assert ((result.to_numpy().reshape(16, 16) > 127) == bright).mean() > 0.99
        for phase in ("downloading http://", "built u2net", "form for cpu", "parity at 16x16", "wrote "):
            assert any(line.startswith(phase) for line in lines), lines
        assert any(event.get("phase") == "make" for event in server.events)
        with server_of(alter(url, network), tmp_path, "--offline") as second:
            assert steps(second) == []
        assert len(files.asked) == 1


def wait_for(server: LocalServer, event: str) -> dict[str, str]:
    for _ in range(600):
        for found in list(server.events):
            if found["event"] == event:
                return found
        time.sleep(0.1)
    raise AssertionError(server.events)


def test_servers_that_start_together_make_it_once(tmp_path: Path, network: bytes) -> None:
    files = Files(network)
    with serve(files) as url, ThreadPoolExecutor(2) as pool:
        servers = [server_of(alter(url, network), tmp_path) for _ in range(2)]
        for running in pool.map(LocalServer.__enter__, servers):
            running.stop()
    assert len(files.asked) == 1
    assert sorted(len(steps(server)) > 0 for server in servers) == [False, True]
    (model,) = (tmp_path / "models").glob("*.onnx")
    assert model.name.startswith("u2net-cpu-auto-")


def test_a_licence_against_commercial_use(tmp_path: Path, network: bytes) -> None:
    with serve(Files(network)) as url:
        altered = alter(url, network, commercial=False, licence="CC-BY-NC-4.0")
        with pytest.raises(StartupError, match="--accept-licence u2net"), server_of(altered, tmp_path):
            pass
        with (
            server_of(altered, tmp_path, "--accept-licence", "u2net") as server,
            mattebox.Client(server.address) as client,
        ):
            (model,) = client.models().models
            assert (model.non_commercial, model.licence) == (True, "CC-BY-NC-4.0")
            command = [sys.executable, "-m", "mattebox", "models", "--address", server.address]
            shown = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
            assert "CC-BY-NC-4.0, not for commercial use" in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--offline"], "nothing is downloaded offline"),
        (["--cache-dir", "off"], "the model u2net needs a cache folder to be made in: set cache_dir"),
        (["--cache-dir", "/proc/nowhere"], "can't write to the cache folder /proc/nowhere: "),
        (["--precision", "fp16"], "--precision fp16 needs --target cuda"),
    ],
)
def test_a_model_that_can_not_be_made(tmp_path: Path, network: bytes, flags: list[str], says: str) -> None:
    server = server_of(alter("http://127.0.0.1:1", network), tmp_path, *flags)
    with pytest.raises(StartupError), server:
        pass
    assert says in server.events[-1]["reason"]


def test_a_file_with_another_digest_is_not_served(tmp_path: Path, network: bytes) -> None:
    with serve(Files(network[:-1])) as url:
        server = server_of(alter(url, network), tmp_path)
        with pytest.raises(StartupError), server:
            pass
    assert "is not the file that it should be" in server.events[-1]["reason"]
    assert not list((tmp_path / "models").glob("*.onnx"))
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["net.onnx.lock"]


def test_the_end_of_the_server_ends_the_exporter(tmp_path: Path, network: bytes) -> None:
    files = Files(network, gate=Event())
    assert files.gate is not None
    with serve(files) as url, ThreadPoolExecutor(1) as pool:
        server = server_of(alter(url, network), tmp_path)
        starting = pool.submit(server.__enter__)
        wait_for(server, "making the model")
        (exporter,) = psutil.Process(server.pid).children()
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        with pytest.raises(StartupError, match="stopped while loading"):
            starting.result(60)
        _, alive = psutil.wait_procs([exporter], timeout=20)
        assert alive == []
        files.gate.set()
    assert not list((tmp_path / "models").glob("*.onnx"))


def test_torchvisions_network_without_torch(tmp_path: Path) -> None:
    """Its checkpoint is in torch's old format; the exporter's process can't import torch."""
    name, labels = "deeplabv3_mobilenet_v3_large", 21
    data = checkpoints.legacy_of(checkpoints.random_state(name, labels))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()[:8]}"
    files = Files(data, breaks_after=[len(data) // 3])
    with serve(files) as url:
        altered = (
            "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
            "from dataclasses import replace\n"
            "from mattebox_export import catalogue as c\n"
            f"source = c.Source({url!r} + '/weights.pth', {len(data) / 1e6}, {digest!r})\n"
            f"c.CATALOGUE[{name!r}] = replace(c.CATALOGUE[{name!r}], source=source)\n"
        )
        server = server_of(altered, tmp_path, model=name)
        with server, mattebox.Client(server.address) as client:
            (model,) = client.models().models
            client.remove_background(PHOTO, timeout=120)
    assert (model.kind, len(model.labels), model.untrained) == ("semantic", labels, False)
    assert any("broke off" in line for line in steps(server))
    assert any(line.startswith("parity at 600x450, 450x675, batch 2") for line in steps(server))


def test_the_list_says_what_is_cached(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "u2netp-cpu-auto-0123.onnx").touch()
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "silueta.onnx").touch()
    command = [sys.executable, "-m", "mattebox_server", "--list-models", "--cache-dir", str(tmp_path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = {line.split()[0]: line for line in listed.splitlines()}
    assert " ready " in rows["u2netp"]
    assert " downloaded " in rows["silueta"]
    assert " ready " not in rows["u2net"]
    assert " CC-BY-NC-4.0  no " in rows["bria-rmbg"]


def test_the_real_network_by_name() -> None:
    """U²-Net-p from its package, in the user's own cache folder."""
    with LocalServer(["u2netp"]) as server, mattebox.Client(server.address) as client:
        result = client.remove_background(images.encode(np.full((40, 60, 3), 200, np.uint8)))
    assert (result.width, result.height, result.execution.model) == (60, 40, "u2netp")
