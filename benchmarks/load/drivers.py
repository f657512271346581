"""The interfaces between the load generator and a server that it measures."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class CannotRun(Exception):
    """A subject doesn't run on this machine. The message is the reason that the report prints."""


@dataclass(frozen=True)
class Answer:
    """The answer to one call.

    Args:
        status: "OK", or the name of the error.
        bytes_out: size of the composite's file.
        stages_s: seconds of each stage by the server's own clock; empty if the server doesn't report them.
    """

    status: str
    bytes_out: int
    stages_s: Mapping[str, float]


class Caller(Protocol):
    """One connection of the generator."""

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """Sends a photo's file and returns the answer; an error of the server is a status, never an exception."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


class Running(Protocol):
    """A server that answers."""

    @property
    def pids(self) -> list[int]:
        """The process ids of the server and of its children, as they are now."""
        ...

    async def connect(self) -> Caller:
        """Opens a new connection."""
        ...


class Subject(Protocol):
    """A server to measure."""

    @property
    def name(self) -> str:
        """The name in the report."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings in the report: versions, threads, provider, and whatever else the figures depend on."""
        ...

    def prepare(self) -> None:
        """Installs and makes what the server needs; raises CannotRun."""
        ...

    def start(self) -> AbstractContextManager[Running]:
        """Runs the server until the end of the block; raises CannotRun."""
        ...
