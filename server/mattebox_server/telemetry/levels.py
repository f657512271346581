"""How full the server is at a moment."""

from dataclasses import dataclass

from mattebox_server.removal.pipeline import Pipeline


@dataclass(frozen=True)
class ModelLevels:
    """How full the queue of one model is.

    Args:
        model: the name of the model.
        provider: the execution provider that runs it.
        precision: the numeric precision that it runs in.
        serving: whether it takes requests.
        waiting: the requests in its queue.
        active: the requests that are worked on.
        wait_s: the seconds that a new request would wait, of a caller who has none here.
        backlog_s: the seconds until all requests that are here now have ended; 0 if none waits.
    """

    model: str
    provider: str
    precision: str
    serving: bool
    waiting: int
    active: int
    wait_s: float
    backlog_s: float


@dataclass(frozen=True)
class Levels:
    """How full the server is.

    Args:
        in_flight_bytes: the memory that requests in flight account for.
        models: the queues; none while the models are loaded.
    """

    in_flight_bytes: int = 0
    models: tuple[ModelLevels, ...] = ()


def measure(pipeline: Pipeline | None, serving: bool) -> Levels:
    """Looks at all queues. Belongs to the event loop, where all of it changes.

    Args:
        pipeline: None while the models are loaded.
        serving: whether the server takes requests.
    """
    if pipeline is None:
        return Levels()
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
            lane.backlog_s,
        )
        for network in pipeline.engine.networks
    )
    return Levels(pipeline.admission.memory.held_bytes, models)
