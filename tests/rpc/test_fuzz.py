"""Mutated photos and requests, a few of each here; `make bench-faults` has tens of thousands more."""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc
import numpy as np
from chaos.mutations import mutated, photos, requests

from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import InvalidRequest
from mattebox_server.imaging import codec, headers
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.local import LocalServer

LIMITS = PhotoLimits(10_000_000, 4_000_000)
IN_THE_TABLE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def test_broken_files_are_photos_or_refused() -> None:
    outcomes: Counter[str] = Counter()
    for file in mutated(photos(), 1500, seed=1):
        try:
            header = headers.probe(file, LIMITS, "encoded")
            photo = codec.decode(file, header, "encoded")
        except InvalidRequest:
            outcomes["refused"] += 1
        else:
            assert photo.bgr.dtype == np.uint8
            assert photo.bgr.shape == (header.height_px, header.width_px, 3)
            outcomes["decoded"] += 1
    assert min(outcomes["refused"], outcomes["decoded"]) > 100


def test_broken_requests_end_in_a_status_of_the_table(server: LocalServer) -> None:
    outcomes: Counter[grpc.StatusCode] = Counter()
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        for request in requests(photos(), 500, seed=2):
            outcomes[status(stub, request)] += 1
        bare: Any = channel
        raw = bare.unary_unary("/mattebox.v1.BackgroundRemovalService/RemoveBackground")
        for file in mutated([request.SerializeToString() for request in requests(photos(), 20, seed=3)], 200, seed=4):
            outcomes[status_of(raw, file)] += 1
        assert status(stub, pb.RemoveBackgroundRequest(encoded=photos()[0])) is grpc.StatusCode.OK
    assert set(outcomes) <= IN_THE_TABLE
    assert outcomes[grpc.StatusCode.OK] > 20
    assert outcomes[grpc.StatusCode.INVALID_ARGUMENT] > 100


def status(stub: pb_grpc.BackgroundRemovalServiceStub, request: pb.RemoveBackgroundRequest) -> grpc.StatusCode:
    return status_of(stub.RemoveBackground, request)


def status_of(method: object, message: object) -> grpc.StatusCode:
    assert callable(method)
    try:
        method(message, timeout=20)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        return error.code()
    return grpc.StatusCode.OK
