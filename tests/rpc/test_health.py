"""Health of the server and of each model, in a server of the real parts around sessions that the tests control."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import images
import mattebox
from fakes import FakeFiles, FakeSession, engine_of
from mattebox_server import app
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.lifecycle import Backoff
from mattebox_server.rpc.service import SERVICE_NAME
from mattebox_server.settings import Settings

PHOTO = images.encode(images.scene())
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
A, B = f"{SERVICE_NAME}/a", f"{SERVICE_NAME}/b"


@dataclass
class Scene:
    """A server in this process, whose models are `a`, the default, and `b`."""

    monkeypatch: pytest.MonkeyPatch
    files: FakeFiles = field(default_factory=FakeFiles)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    ports: list[int] = field(default_factory=list[int])
    sessions: dict[str, FakeSession] = field(default_factory=lambda: {name: FakeSession(name) for name in "ab"})

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[tuple[Health, mattebox.AsyncClient]]:
        bind, loop = app._bind, asyncio.get_running_loop()  # pyright: ignore[reportPrivateUsage]

        def load(*_: object) -> Engine:
            asyncio.run_coroutine_threadsafe(self.loaded.wait(), loop).result(10)
            return engine_of(*self.sessions.values(), files=self.files, backoff=Backoff(0.001, 0.002))

        def note_port(server: grpc.aio.Server, settings: Settings) -> int:
            self.ports.append(bind(server, settings))
            return self.ports[0]

        self.monkeypatch.setattr(app, "load_engine", load)
        self.monkeypatch.setattr(app, "_bind", note_port)
        settings = Settings(model=["any.onnx"], address="127.0.0.1:0")
        serving = asyncio.create_task(app._serve(settings))  # pyright: ignore[reportPrivateUsage]
        while not self.ports:
            await asyncio.sleep(0.01)
        address = f"127.0.0.1:{self.ports[0]}"
        async with grpc.aio.insecure_channel(address) as channel, mattebox.AsyncClient(address) as client:
            yield Health(health_pb2_grpc.HealthStub(channel)), client
            os.kill(os.getpid(), signal.SIGTERM)
            await serving


@dataclass
class Health:
    stub: Any

    async def of(self, *names: str) -> list[int]:
        return [(await self.stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

    async def until(self, name: str, status: int) -> None:
        async with asyncio.timeout(20):
            while await self.of(name) != [status]:
                await asyncio.sleep(0.01)


async def fail(client: mattebox.AsyncClient, session: FakeSession) -> None:
    session.broken = True
    for _ in range(3):
        with pytest.raises(mattebox.InternalError):
            await client.remove_background(PHOTO, model=session.spec.name)


def test_a_model_that_fails_is_not_serving_until_it_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scene = Scene(monkeypatch)
        scene.loaded.set()
        async with scene.serve() as (health, client):
            await health.until("", SERVING)
            assert await health.of(SERVICE_NAME, A, B) == [SERVING] * 3
            scene.files.gate.clear()
            await fail(client, scene.sessions["a"])
            await health.until("", NOT_SERVING)
            assert await health.of(SERVICE_NAME, A, B) == [NOT_SERVING, NOT_SERVING, SERVING]
            with pytest.raises(mattebox.Unavailable, match="the model a failed and is being rebuilt") as caught:
                await client.remove_background(PHOTO)
            assert caught.value.retry_after is not None
            assert (await client.remove_background(PHOTO, model="b")).width == 96
            assert [model.name for model in (await client.models()).models] == ["a", "b"]
            scene.files.gate.set()
            await health.until("", SERVING)
            assert await health.of(SERVICE_NAME, A) == [SERVING] * 2
            assert (await client.remove_background(PHOTO)).width == 96

    asyncio.run(scenario())


def test_a_model_that_is_not_the_default_leaves_the_server_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scene = Scene(monkeypatch)
        scene.loaded.set()
        async with scene.serve() as (health, client):
            await health.until("", SERVING)
            scene.files.gate.clear()
            await fail(client, scene.sessions["b"])
            await health.until(B, NOT_SERVING)
            assert await health.of("", SERVICE_NAME, A) == [SERVING] * 3
            scene.files.gate.set()
            await health.until(B, SERVING)

    asyncio.run(scenario())


def test_models_that_nobody_has_have_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scene = Scene(monkeypatch)
        scene.loaded.set()
        async with scene.serve() as (health, _):
            await health.until("", SERVING)
            with pytest.raises(grpc.RpcError) as caught:
                await health.of(f"{SERVICE_NAME}/c")
            assert isinstance(caught.value, grpc.aio.AioRpcError)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())


def test_sighup_while_models_load_is_kept_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows nothing of it would end."""

    async def scenario() -> None:
        scene = Scene(monkeypatch)
        async with scene.serve() as (health, client):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.05)
            assert await health.of("") == [NOT_SERVING]
            assert scene.files.calls == 0
            scene.loaded.set()
            async with asyncio.timeout(20):
                while scene.files.calls < 2:  # both models
                    await asyncio.sleep(0.01)
            assert (await client.remove_background(PHOTO)).width == 96

    asyncio.run(scenario())


def test_the_end_of_the_server_while_a_model_is_reloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It doesn't wait for the thread, which nothing can interrupt while it is in a provider."""

    async def scenario() -> None:
        scene = Scene(monkeypatch)
        scene.loaded.set()
        async with scene.serve() as (health, _):
            await health.until("", SERVING)
            scene.files.gate.clear()
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(20):
                while not scene.files.inside:
                    await asyncio.sleep(0.01)
        assert scene.files.inside
        scene.files.gate.set()
        while any(thread.name == "reloading" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)

    asyncio.run(scenario())
