"""Triton through PyTriton: a file's bytes in, a file's bytes out, over the KServe protocol."""

from typing import TYPE_CHECKING

import cutout
import numpy as np
from numpy.typing import NDArray
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

if TYPE_CHECKING:
    from pytriton.triton import Request

Outputs = list[dict[str, NDArray[np.uint8]]]


def main() -> None:
    """Until a signal."""
    told = cutout.arguments()
    cut = cutout.cutter(told.model, told.threads)

    def remove(requests: list["Request"]) -> Outputs:
        photos = [request["photo"].tobytes() for request in requests]
        return [{"cutout": np.frombuffer(cut(photo), np.uint8)} for photo in photos]

    config = TritonConfig(grpc_address="127.0.0.1", grpc_port=told.port, allow_http=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            "cutout",
            [remove] * max(1, told.threads),  # as many at once; one as shipped
            inputs=[Tensor(name="photo", dtype=np.uint8, shape=(-1,))],
            outputs=[Tensor(name="cutout", dtype=np.uint8, shape=(-1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main()
