"""Calls of the blocking client: how one begins, and how it is repeated where its answer breaks off."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc

from mattebox import _core
from mattebox.batches import BatchResult, NamedPhoto, Slot, Window
from mattebox.errors import MatteboxError, from_status, request_id_of
from mattebox.photos import PhotoSource
from mattebox.results import RemovalResult, parse_result
from mattebox.v1 import background_removal_pb2 as pb

if TYPE_CHECKING:
    _Call: TypeAlias = grpc._CallFuture[pb.RemoveBackgroundResponse]  # pyright: ignore[reportPrivateUsage]


class _Attempt(Protocol):
    def __call__(self, *, timeout: float | None) -> _Call: ...


class Starter:
    """Begins calls where no signal can interrupt gRPC.

    Ctrl-C raises KeyboardInterrupt wherever the main thread is. Raised inside gRPC, it would leave a half-made call for
    whose end `close` waits for ever. So the main thread lets one other thread begin its calls; Ctrl-C then interrupts
    the wait for that thread, and the call is cancelled.
    """

    def __init__(self) -> None:
        self._process = 0
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, start: Callable[[], _Call]) -> _Call:
        """Returns the call that `start` begins, and raises what it raises."""
        if threading.current_thread() is not threading.main_thread():
            return start()
        if self._pool is None or self._process != os.getpid():  # a fork copies the pool without its thread
            self._process, self._pool = os.getpid(), ThreadPoolExecutor(1, "mattebox-starter")
        begun = self._pool.submit(start)
        try:
            return begun.result()
        except BaseException:
            begun.add_done_callback(_cancel)
            raise

    def close(self) -> None:
        """Ends the thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def _cancel(begun: Future[_Call]) -> None:
    """Cancels the call, unless it failed to begin."""
    if begun.exception() is None:
        begun.result().cancel()


class Removal:
    """The call for one photo, which is made again where its answer breaks off.

    Args:
        starter: the thread on which attempts begin.
        attempt: begins an attempt with a timeout.
        attempts: number and total time of the attempts.
    """

    def __init__(self, starter: Starter, attempt: _Attempt, attempts: _core.Attempts) -> None:
        self._starter, self._attempt, self._attempts = starter, attempt, attempts
        self.begin_again()

    def result(self) -> RemovalResult:
        """Waits for the answer, over as many attempts as it takes. Raises MatteboxError."""
        try:
            while self.broke_off():
                self.begin_again()
        except BaseException:  # after a KeyboardInterrupt, for example, its result is no longer wanted
            self.cancel()
            raise
        initial = self._call.initial_metadata() or ()
        if self._call.code() is grpc.StatusCode.OK:
            return parse_result(self._call.result(), request_id_of(initial))
        trailing = self._call.trailing_metadata() or ()
        raise from_status(self._call.code(), self._call.details() or "", initial, trailing)

    def broke_off(self) -> bool:
        """Waits for the end of the attempt; returns whether its answer broke off and another attempt is left."""
        return self._attempts.may_repeat(self._call.code(), self._call.initial_metadata() or ())

    def begin_again(self) -> None:
        """Begins the next attempt."""
        timeout_s = self._attempts.next_s()
        self._call = self._starter.begin(lambda: self._attempt(timeout=timeout_s))

    def when_ended(self, do: Callable[[], None]) -> None:
        """Calls `do` on one of gRPC's threads as soon as the attempt has ended."""
        self._call.add_done_callback(lambda _: do())

    def cancel(self) -> None:
        """Cancels the attempt; does nothing where it has ended."""
        self._call.cancel()


class Batch:
    """The photos of one `remove_backgrounds` that are under way.

    Args:
        begin: begins the call for one photo.
        window: order and number of the photos.
    """

    def __init__(self, begin: Callable[[PhotoSource], Removal], window: Window) -> None:
        self._begin, self._window = begin, window
        self._running: dict[Slot, Removal] = {}
        self._ended: SimpleQueue[Slot] = SimpleQueue()

    def run(self, photos: Iterator[NamedPhoto]) -> Iterator[BatchResult]:
        """Takes photos as there is room for them, and yields their results. Cancels the open calls at its end."""
        try:
            for item in photos:
                self._open(item)
                while not self._window.has_room:
                    yield from self._results()
            while self._window:
                yield from self._results()
        finally:
            for removal in self._running.values():
                removal.cancel()

    def _open(self, item: NamedPhoto) -> None:
        """Begins the call for the next photo. Raises TypeError and ValueError for an item that is no photo."""
        slot, photo = self._window.open(item)
        try:
            self._running[slot] = self._begin(photo)
        except (MatteboxError, OSError) as error:
            slot.outcome = BatchResult(slot.id, error=error)
            self._ended.put(slot)
        except (TypeError, ValueError) as error:
            slot.note(error)
            raise
        else:
            self._announce(slot)

    def _announce(self, slot: Slot) -> None:
        self._running[slot].when_ended(lambda: self._ended.put(slot))

    def _results(self) -> Iterator[BatchResult]:
        """Waits until an attempt has ended; yields the results that may be given out then."""
        slot = self._ended.get()
        if slot.outcome is None and self._running[slot].broke_off():
            self._running[slot].begin_again()
            self._announce(slot)
        elif slot.outcome is None:
            slot.outcome = self._outcome(slot)
        yield from self._window.ready()

    def _outcome(self, slot: Slot) -> BatchResult:
        try:
            return BatchResult(slot.id, self._running.pop(slot).result())
        except MatteboxError as error:
            return BatchResult(slot.id, error=error)
