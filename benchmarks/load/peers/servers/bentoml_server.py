"""The BentoML server: `bentoml serve` imports this file and passes arguments by `--arg`."""

from pathlib import Path
from typing import Annotated

import bentoml
import cutout
from pydantic import BaseModel


class Arguments(BaseModel):
    """The arguments: the model file, and the engine threads, 0 for "as shipped"."""

    model: str
    threads: int


arguments = bentoml.use_arguments(Arguments)


@bentoml.service(threads=max(1, arguments.threads), traffic={"timeout": 600})
class Cutouts:
    """The service, in one worker process. BentoML's default is one thread."""

    def __init__(self) -> None:
        self._cut: cutout.Cut = cutout.cutter(Path(arguments.model), arguments.threads)

    @bentoml.api(route="/remove")
    def remove(
        self, photo: Annotated[Path, bentoml.validators.ContentType("image/jpeg")]
    ) -> Annotated[bytes, bentoml.validators.ContentType("image/png")]:
        """Returns the cutout of the photo in the form."""
        return self._cut(photo.read_bytes())
