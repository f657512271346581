"""What the load generator knows of a server: how to make, start and call it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class CannotRun(Exception):
    """A subject doesn't run on this machine. The message is the reason, for the report."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Args:
        status: "OK", or the name of what it was instead.
        bytes_out: size of the composite's file.
        stages_s: how long the server's stages took, by its own clock; empty if it doesn't tell.
    """

    status: str
    bytes_out: int
    stages_s: Mapping[str, float]


class Caller(Protocol):
    """One connection of the generator."""

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """A photo's file there, a composite back; never raises for what the server does."""
        ...

    async def close(self) -> None:
        """Gives the connection back."""
        ...


class Running(Protocol):
    """A server that answers."""

    @property
    def pids(self) -> list[int]:
        """Of all its processes, as they are now."""
        ...

    async def connect(self) -> Caller:
        """A connection of one's own."""
        ...


class Subject(Protocol):
    """A server to measure."""

    @property
    def name(self) -> str:
        """In the report."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """In the report: versions, threads, provider, and what else its figures depend on."""
        ...

    def prepare(self) -> None:
        """Makes all that it needs, once. Raises CannotRun."""
        ...

    def start(self) -> AbstractContextManager[Running]:
        """The server, until the end of the block. Raises CannotRun."""
        ...
