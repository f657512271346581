"""What callers see of a server that starts or drains. Made of the real parts, held in the state under test."""

import asyncio
from pathlib import Path

import pytest
from grpc_health.v1 import health

import images
import mattebox
from mattebox_server.app import grpc_server
from mattebox_server.interceptors import RequestInterceptor
from mattebox_server.service import SERVICE_NAME, BackgroundRemovalService
from mattebox_server.settings import Settings

PHOTO = images.encode(images.scene())


@pytest.mark.parametrize("state", ["starting", "shutting down"])
def test_not_serving_is_unavailable_with_a_time_to_come_back(state: str) -> None:
    async def scenario() -> None:
        service = BackgroundRemovalService(max_message_bytes=1000)
        if state == "shutting down":
            service.drain()
        server = grpc_server(
            Settings(model=[Path("any.onnx")]), service, health.aio.HealthServicer(), RequestInterceptor(SERVICE_NAME)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with mattebox.AsyncClient(f"127.0.0.1:{port}") as client:
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
        server = grpc_server(
            Settings(model=[Path("any.onnx")]),
            Broken(1000),
            health.aio.HealthServicer(),
            RequestInterceptor(SERVICE_NAME),
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with mattebox.AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(mattebox.InternalError) as caught:
                await client.models()
        assert "secret" not in repr(caught.value.__cause__)
        assert caught.value.request_id in str(caught.value)
        await server.stop(0)

    asyncio.run(scenario())
