"""Servers to compare with, each in an environment of its own: README.md says what is fair about it and what isn't."""

from typing import Literal

from load.peers.bentoml import bentoml
from load.peers.litserve import litserve
from load.peers.peer import Peer
from load.peers.ray import ray
from load.peers.rembg import rembg
from load.peers.triton import triton

Comparison = Literal["same engine", "as shipped"]


def peers(comparison: Comparison, threads: int, photo: bytes) -> list[Peer]:
    """All of them.

    Args:
        comparison: of the server alone, or of what a user gets.
        threads: of the engine, for the same engine.
        photo: JPEG file that a server has to answer before it counts as started.
    """
    told = threads if comparison == "same engine" else 0
    return [make(told, photo) for make in (rembg, litserve, bentoml, ray, triton)]
