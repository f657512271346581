"""BentoML: `bentoml serve` imports this file, and gives it its arguments by `--arg`."""

from pathlib import Path
from typing import Annotated

import bentoml
import cutout
from pydantic import BaseModel


class Told(BaseModel):
    """`--arg model=FILE --arg threads=N`, N being 0 as shipped."""

    model: str
    threads: int


told = bentoml.use_arguments(Told)


@bentoml.service(threads=max(1, told.threads), traffic={"timeout": 600})
class Cutouts:
    """One worker process; threads=1 is BentoML's default."""

    def __init__(self) -> None:
        self._cut: cutout.Cut = cutout.cutter(Path(told.model), told.threads)

    @bentoml.api(route="/remove")
    def remove(
        self, photo: Annotated[Path, bentoml.validators.ContentType("image/jpeg")]
    ) -> Annotated[bytes, bentoml.validators.ContentType("image/png")]:
        """A form with the file in, a file out."""
        return self._cut(photo.read_bytes())
