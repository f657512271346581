"""LitServe: a form with a photo in, a PNG out, as in its documentation's example with images."""

from pathlib import Path

import cutout
import litserve
from fastapi import Request, Response


class Cutouts(litserve.LitAPI):
    """One worker; each has a network of its own."""

    def __init__(self, model: Path, threads: int) -> None:
        super().__init__()
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:  # noqa: ARG002 - the CPU
        """In the worker."""
        self._cut: cutout.Cut = cutout.cutter(self._model, self._threads)

    def decode_request(self, request: Request) -> bytes:
        """What comes is what LitServe read of the request: for a form, its fields."""
        return request["photo"].file.read()  # type: ignore[index,no-any-return]

    def predict(self, x: bytes) -> bytes:
        """The cutout's file."""
        return self._cut(x)

    def encode_response(self, output: bytes) -> Response:
        """The file as it is."""
        return Response(output, media_type="image/png")


def main() -> None:
    """Until a signal."""
    told = cutout.arguments()
    server = litserve.LitServer(Cutouts(told.model, told.threads), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=told.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
