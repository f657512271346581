"""Several servers that are killed and restarted, retries, and arguments that a client refuses."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

import images
import mattebox
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from waiting import answered, eventually

PHOTO = images.encode(images.scene())
LARGE = images.encode(images.textured(1600, 1200))  # 3.8 MB, more than gRPC keeps by default for another attempt
CALLERS = 4


@contextmanager
def load(client: mattebox.Client, photo: bytes, callers: int = CALLERS) -> Generator[Counter[str]]:
    """Calls without a pause from several threads until the block ends; gives the outcomes by name."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                client.remove_background(photo, timeout=30)
                outcomes["ok"] += 1
            except mattebox.MatteboxError as error:
                outcomes[f"{error.code}: {error}"] += 1

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("photo", [PHOTO, LARGE], ids=["small", "large"])
def test_a_server_that_is_killed_fails_no_call(colour_model: Path, photo: bytes) -> None:
    with LocalServer([colour_model]) as one, LocalServer([colour_model]) as two:
        with mattebox.Client([one.address, two.address]) as client, load(client, photo) as outcomes:
            eventually(lambda: min(answered(one), answered(two)) > 5)
            os.kill(one.pid, signal.SIGKILL)
            before = answered(two)
            eventually(lambda: answered(two) > before + 10)
        assert set(outcomes) == {"ok"}


@pytest.mark.parametrize("retries", [0, 4])
def test_a_rolling_restart_fails_no_call(colour_model: Path, retries: int) -> None:
    drain = ["--drain-seconds", "0.5"]  # long enough for the client to learn that it must call the other server
    with (
        LocalServer([colour_model], drain) as one,
        LocalServer([colour_model], drain) as two,
        mattebox.Client([one.address, two.address], retries=retries) as client,
        load(client, PHOTO) as outcomes,
    ):
        eventually(lambda: min(answered(one), answered(two)) > 5)
        assert one.stop() == 0
        with LocalServer([colour_model], ["--address", one.address]) as again:
            eventually(lambda: answered(again) > 5)
            assert two.stop() == 0
            before = answered(again)
            eventually(lambda: answered(again) > before + 10)
            assert set(outcomes) == {"ok"}


class Fake:
    """A server that refuses its first calls with the given statuses, and counts all calls."""

    def __init__(self, *refusals: tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]) -> None:
        self._refusals = list(refusals)
        self.calls: list[float] = []

    async def start(self) -> tuple[aio.Server, str]:
        server = aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            self._answer, pb.ListModelsRequest.FromString, pb.ListModelsResponse.SerializeToString
        )
        methods = {"ListModels": handler}
        service = "mattebox.v1.BackgroundRemovalService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, f"127.0.0.1:{port}"

    async def _answer(self, _: object, context: "aio.ServicerContext[object, object]") -> pb.ListModelsResponse:
        self.calls.append(time.monotonic())
        if len(self.calls) <= len(self._refusals):
            code, metadata = self._refusals[len(self.calls) - 1]
            await context.abort(code, "not now", metadata)
        return pb.ListModelsResponse(default_model="fake")


def ask(fake: Fake, retries: int) -> str:
    """Returns the name of the default model, or the code of the error."""

    async def scenario() -> str:
        server, address = await fake.start()
        async with mattebox.AsyncClient(address, retries=retries) as client:
            try:
                return (await client.models(timeout=20)).default
            except mattebox.MatteboxError as error:
                return error.code
            finally:
                await server.stop(0)

    return asyncio.run(scenario())


UNAVAILABLE, EXHAUSTED, INTERNAL = (
    (code, ()) for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
)


@pytest.mark.parametrize(
    ("refusals", "retries", "outcome", "calls"),
    [
        ([UNAVAILABLE, EXHAUSTED], 4, "fake", 3),
        ([UNAVAILABLE] * 5, 4, "UNAVAILABLE", 5),
        ([UNAVAILABLE], 0, "UNAVAILABLE", 1),
        ([EXHAUSTED] * 2, 1, "RESOURCE_EXHAUSTED", 2),
        ([INTERNAL], 4, "INTERNAL", 1),
    ],
)
def test_what_is_tried_again(refusals: list[object], retries: int, outcome: str, calls: int) -> None:
    fake = Fake(*refusals)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert ask(fake, retries) == outcome
    assert len(fake.calls) == calls


def test_the_server_says_when_to_come_back() -> None:
    fake = Fake((grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "1200"),)))
    assert ask(fake, 4) == "fake"
    assert fake.calls[1] - fake.calls[0] >= 1.19  # its own first pause would be at most 0.12 s


def test_a_busy_server_answers_in_the_end(colour_model: Path) -> None:
    with (
        LocalServer([colour_model], ["--max-queue", "1"]) as server,
        mattebox.Client(server.address) as client,
        load(client, LARGE, callers=16) as outcomes,
    ):
        eventually(lambda: any(event.get("status") == "RESOURCE_EXHAUSTED" for event in list(server.events)))
        before = outcomes["ok"]
        eventually(lambda: outcomes["ok"] > before + 5)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ([], "empty"),
        (["127.0.0.1"], "HOST:PORT"),
        (["127.0.0.1:1", "example:1"], "dns:///"),
        (["127.0.0.1:1", "[::1]:1"], "all of IPv4"),
    ],
)
def test_addresses_that_can_not_be(address: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mattebox.Client(address)


@pytest.mark.parametrize("retries", [-1, 5])
def test_retries_out_of_range(retries: int) -> None:
    with pytest.raises(ValueError, match="retries"):
        mattebox.Client("127.0.0.1:1", retries=retries)


@pytest.mark.parametrize("address", ["example:1", "10.0.0.1:1", "dns:///localhost:1", ["127.0.0.1:1", "10.0.0.1:1"]])
def test_a_token_does_not_leave_the_machine_in_the_clear(address: str | list[str]) -> None:
    with pytest.raises(ValueError, match="in the clear") as caught:
        mattebox.Client(address, token="secret-secret")
    assert "secret" not in str(caught.value)
    mattebox.Client(address, token="secret-secret", allow_insecure=True).close()
    mattebox.Client(address, token="secret-secret", tls=True).close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/x", ["127.0.0.1:1"]])
def test_on_the_machine_a_token_may(address: str | list[str]) -> None:
    mattebox.Client(address, token="secret-secret").close()


@pytest.mark.parametrize("token", ["", "two\nlines", "sm\u00f6rg\u00e5s"])
def test_tokens_that_can_not_be(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        mattebox.Client("127.0.0.1:1", token=token)


def test_certificate_and_key_belong_together() -> None:
    with pytest.raises(ValueError, match="together"):
        mattebox.Tls(certificate=b"x")
    with pytest.raises(FileNotFoundError):
        mattebox.Client("127.0.0.1:1", tls=mattebox.Tls(ca="/nowhere/ca.pem"))
