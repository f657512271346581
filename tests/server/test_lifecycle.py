"""What callers see of a server that starts or drains. Made of the real parts, held in the state under test."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import images
import mattebox
from fakes import FakeSession, engine_of
from mattebox_server import app
from mattebox_server.admission.reception import Reception
from mattebox_server.app import grpc_server
from mattebox_server.engine.engine import Engine
from mattebox_server.rpc.access import Callers
from mattebox_server.rpc.calls import Calls
from mattebox_server.rpc.service import SERVICE_NAME, BackgroundRemovalService
from mattebox_server.rpc.wire import Wire
from mattebox_server.security.proxies import TrustedProxies
from mattebox_server.settings import Settings

PHOTO = images.encode(images.scene())


def parts() -> tuple[int, Wire, Calls, Callers]:
    """What a service is made of."""
    return 1000, Wire(Reception(9, 60), 60), Calls(), Callers(None, TrustedProxies())


@pytest.mark.parametrize("state", ["starting", "shutting down"])
def test_not_serving_is_unavailable_with_a_time_to_come_back(state: str) -> None:
    async def scenario() -> None:
        service = BackgroundRemovalService(*parts())
        if state == "shutting down":
            service.drain()
        server = grpc_server(Settings(model=["any.onnx"]), service, health.aio.HealthServicer())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with mattebox.AsyncClient(f"127.0.0.1:{port}", retries=0) as client:
            for call in (client.remove_background(PHOTO), client.models()):
                with pytest.raises(mattebox.Unavailable, match=state) as caught:
                    await call
                assert caught.value.retry_after is not None
                assert caught.value.request_id
        await server.stop(0)

    asyncio.run(scenario())


def test_a_fault_of_the_server_tells_nothing_of_itself() -> None:
    class Broken(BackgroundRemovalService):
        def _ready_pipeline(self) -> None:  # type: ignore[override]  # pyright: ignore
            raise RuntimeError("/secret/path: token 1234")

    async def scenario() -> None:
        server = grpc_server(Settings(model=["any.onnx"]), Broken(*parts()), health.aio.HealthServicer())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with mattebox.AsyncClient(f"127.0.0.1:{port}", retries=0) as client:
            with pytest.raises(mattebox.InternalError) as caught:
                await client.models()
        assert "secret" not in repr(caught.value.__cause__)
        assert caught.value.request_id in str(caught.value)
        await server.stop(0)

    asyncio.run(scenario())


def test_health_says_when_the_server_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """NOT_SERVING while the models load, SERVING then, NOT_SERVING from SIGTERM on; for both names."""
    session, ports = FakeSession(), list[int]()
    loading, loaded = threading.Event(), threading.Event()
    not_serving = {health_pb2.HealthCheckResponse.NOT_SERVING}
    bind = app._bind  # pyright: ignore[reportPrivateUsage]

    def load(*_: object) -> Engine:
        loading.set()
        assert loaded.wait(10)
        return engine_of(session)

    def note_port(server: grpc.aio.Server, settings: Settings) -> int:
        ports.append(bind(server, settings))
        return ports[0]

    monkeypatch.setattr(app, "load_engine", load)
    monkeypatch.setattr(app, "_bind", note_port)

    async def states(channel: grpc.aio.Channel) -> set[int]:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ("", SERVICE_NAME)}

    async def scenario() -> None:
        settings = Settings(model=["any.onnx"], address="127.0.0.1:0", drain_seconds=0)
        serving = asyncio.create_task(app._serve(settings))  # pyright: ignore[reportPrivateUsage]
        while not loading.is_set():
            await asyncio.sleep(0.001)
        address = f"127.0.0.1:{ports[0]}"
        async with (
            grpc.aio.insecure_channel(address) as channel,
            mattebox.AsyncClient(address, retries=0) as client,
        ):
            assert await states(channel) == not_serving
            assert not await client.ready()
            loaded.set()
            while await states(channel) != {health_pb2.HealthCheckResponse.SERVING}:
                await asyncio.sleep(0.001)
            assert await client.ready()
            session.gate.clear()
            call = asyncio.create_task(client.remove_background(PHOTO))
            while not session.running:
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)
            while await states(channel) != not_serving:
                await asyncio.sleep(0.001)
            with pytest.raises(mattebox.Unavailable, match="shutting down"):
                await client.remove_background(PHOTO)
            session.gate.set()
            assert (await call).width == 96
        await serving

    asyncio.run(scenario())


def test_a_signal_while_models_load_ends_the_server_at_once() -> None:
    """TensorRT builds for minutes, and nothing can interrupt it."""
    code = (
        "import sys, time; from pathlib import Path; from mattebox_server import app, settings\n"
        "app.load_engine = lambda *_: time.sleep(600)\n"
        "sys.exit(app.run(settings.Settings(model=['any.onnx'], address='127.0.0.1:0')))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "stopped while loading" in process.stderr.read()
