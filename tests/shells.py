"""Both Python clients with the same blocking methods, so that the same tests run with both."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pytest

import images
import mattebox

T = TypeVar("T")


class AsyncShell:
    """Runs the coroutines of an `AsyncClient` to their end, one at a time."""

    def __init__(self, address: str | Sequence[str], **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._open(address, options))

    async def _open(self, address: str | Sequence[str], options: dict[str, Any]) -> mattebox.AsyncClient:
        return mattebox.AsyncClient(address, **options)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(call)

    def remove_background(self, photo: mattebox.PhotoSource, **options: Any) -> mattebox.RemovalResult:
        return self._run(self._client.remove_background(photo, **options))

    def remove_backgrounds(self, photos: Any, **options: Any) -> Iterator[mattebox.BatchResult]:
        answers = self._client.remove_backgrounds(photos, **options)
        try:
            while (answer := self._run(_next(answers))) is not None:
                yield answer
        finally:
            self._run(answers.aclose())

    def wait_until_ready(self, *, timeout: float | None = 60) -> None:
        self._run(self._client.wait_until_ready(timeout=timeout))

    def models(self, *, timeout: float | None = 10) -> mattebox.Models:
        return self._run(self._client.models(timeout=timeout))

    def ready(self, *, timeout: float | None = 5) -> bool:
        return self._run(self._client.ready(timeout=timeout))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()


async def _next(answers: AsyncGenerator[mattebox.BatchResult]) -> mattebox.BatchResult | None:
    return await anext(answers, None)


Shell: TypeAlias = mattebox.Client | AsyncShell


def open_shell(kind: str, address: str | Sequence[str], **options: Any) -> Shell:
    """Opens a client; `kind` is "sync" or "async"."""
    return AsyncShell(address, **options) if kind == "async" else mattebox.Client(address, **options)


def refused(client: Shell, photo: mattebox.PhotoSource, *fields: str, **options: Any) -> mattebox.InvalidRequest:
    """The server refuses the call with INVALID_ARGUMENT, and names exactly these fields."""
    with pytest.raises(mattebox.InvalidRequest) as caught:
        client.remove_background(photo, **options)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in caught.value.violations] == list(fields)
    assert len(caught.value.request_id) == 32
    return caught.value


def pixels(result: mattebox.RemovalResult) -> images.Bytes:
    """Returns the pixels of a RAW result: uint8 (h, w) or (h, w, channels)."""
    channels = {"rgb": 3, "rgba": 4, "gray": 1}[result.pixel_format or ""]
    array = np.frombuffer(result.image, np.uint8).reshape(result.height, result.width, channels)
    return array[..., 0] if channels == 1 else array
