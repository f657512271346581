"""How full the server is at a moment."""

from dataclasses import dataclass

from mattebox_server.admission.budget import Budget
from mattebox_server.removal.pipeline import Pipeline


@dataclass(frozen=True)
class ModelLevels:
    """Of one model.

    Args:
        model: its name.
        provider: execution provider that runs it.
        precision: numeric precision that it runs in.
        serving: whether it takes requests.
        waiting: requests in its queue.
        active: requests that are worked on.
        wait_s: seconds that a new request would wait, of a caller who has none here.
    """

    model: str
    provider: str
    precision: str
    serving: bool
    waiting: int
    active: int
    wait_s: float


@dataclass(frozen=True)
class Levels:
    """Of the server.

    Args:
        in_flight_bytes: of requests and answers.
        in_flight_pixels: of all photos.
        models: none while they are loaded.
    """

    in_flight_bytes: int = 0
    in_flight_pixels: int = 0
    models: tuple[ModelLevels, ...] = ()


def measure(pipeline: Pipeline | None, in_flight: Budget, serving: bool) -> Levels:
    """To be asked on the event loop, which is where all of it changes.

    Args:
        pipeline: None while models are loaded.
        in_flight: bytes.
        serving: whether the server takes requests.
    """
    if pipeline is None:
        return Levels(in_flight.held)
    lanes = pipeline.admission.lanes
    models = tuple(
        ModelLevels(
            network.spec.name,
            network.provider,
            network.precision,
            serving and network.is_serving,
            (lane := lanes[network.spec.name]).waiting,
            lane.active,
            lane.predicted_wait_s(),
        )
        for network in pipeline.engine.networks
    )
    return Levels(in_flight.held, pipeline.admission.pixels.held, models)
