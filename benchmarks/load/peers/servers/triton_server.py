"""The Triton server, through PyTriton: from a photo's bytes to a cutout's, by the KServe protocol."""

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
    """Runs the server until a signal."""
    arguments = cutout.arguments()
    cut = cutout.cutter(arguments.model, arguments.threads)

    def remove(requests: list["Request"]) -> Outputs:
        photos = [request["photo"].tobytes() for request in requests]
        return [{"cutout": np.frombuffer(cut(photo), np.uint8)} for photo in photos]

    config = TritonConfig(grpc_address="127.0.0.1", grpc_port=arguments.port, allow_http=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            "cutout",
            [remove] * max(1, arguments.threads),  # that many photos at a time; one as shipped
            inputs=[Tensor(name="photo", dtype=np.uint8, shape=(-1,))],
            outputs=[Tensor(name="cutout", dtype=np.uint8, shape=(-1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main()
