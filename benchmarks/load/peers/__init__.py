"""Servers to compare with, each in its own environment. README.md says how far the comparison is fair."""

from typing import Literal

from load.peers.bentoml import bentoml
from load.peers.litserve import litserve
from load.peers.peer import Peer
from load.peers.ray import ray
from load.peers.rembg import rembg
from load.peers.triton import triton

Comparison = Literal["same engine", "as shipped"]


def peers(comparison: Comparison, threads: int, photo: bytes) -> list[Peer]:
    """Returns all peers.

    Args:
        comparison: "same engine" compares the servers alone, "as shipped" what a user gets.
        threads: number of engine threads of the comparison "same engine".
        photo: JPEG file that a server has to answer before it counts as started.
    """
    engine_threads = threads if comparison == "same engine" else 0
    return [make(engine_threads, photo) for make in (rembg, litserve, bentoml, ray, triton)]
