"""The LitServe server: from a form with a photo to a PNG file, as in LitServe's example with images."""

from pathlib import Path

import cutout
import litserve
from fastapi import Request, Response


class Cutouts(litserve.LitAPI):
    """The service of one worker process, which has a network of its own."""

    def __init__(self, model: Path, threads: int) -> None:
        super().__init__()
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:  # noqa: ARG002 - it is always the CPU
        """Loads the network, in the worker process."""
        self._cut: cutout.Cut = cutout.cutter(self._model, self._threads)

    def decode_request(self, request: Request) -> bytes:
        """Returns the photo's file; LitServe passes the fields of a form as the request."""
        return request["photo"].file.read()  # type: ignore[index,no-any-return]

    def predict(self, x: bytes) -> bytes:
        """Returns the cutout's file."""
        return self._cut(x)

    def encode_response(self, output: bytes) -> Response:
        """Returns the response that holds the file."""
        return Response(output, media_type="image/png")


def main() -> None:
    """Runs the server until a signal."""
    arguments = cutout.arguments()
    server = litserve.LitServer(Cutouts(arguments.model, arguments.threads), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
