"""How full the server is at a moment, as gauges."""

from collections.abc import Mapping

from mattebox_server.removal.pipeline import Pipeline

Levels = Mapping[str, Mapping[tuple[str, ...], float]]
"""The values of each gauge, by the values of its labels."""

LEVELS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mattebox_in_flight_bytes": ("Bytes of memory that requests in flight account for.", ()),
    "mattebox_queue_length": ("Requests that wait.", ("model",)),
    "mattebox_queue_wait_seconds": ("Seconds that a new request of a caller without any would wait.", ("model",)),
    "mattebox_backlog_seconds": ("Seconds until all requests that are here have ended; 0 if none waits.", ("model",)),
    "mattebox_active_requests": ("Requests that are worked on.", ("model",)),
    "mattebox_model_serving": (
        "1 if the model takes requests. One 0 without names while the models are loaded.",
        ("model", "provider", "precision"),
    ),
}
"""What each gauge says, and its labels."""


def measure(pipeline: Pipeline | None, serving: bool) -> Levels:
    """Looks at all queues. Belongs to the event loop, where all of it changes.

    Args:
        pipeline: None while the models are loaded.
        serving: whether the server takes requests.
    """
    if pipeline is None:
        return {"mattebox_in_flight_bytes": {(): 0}, "mattebox_model_serving": {("", "", ""): 0}}
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in LEVELS}
    found["mattebox_in_flight_bytes"][()] = pipeline.admission.memory.held_bytes
    for network in pipeline.engine.networks:
        model, lane = network.spec.name, pipeline.admission.lanes[network.spec.name]
        found["mattebox_queue_length"][model,] = lane.waiting
        found["mattebox_queue_wait_seconds"][model,] = lane.predicted_wait_s()
        found["mattebox_backlog_seconds"][model,] = lane.backlog_s
        found["mattebox_active_requests"][model,] = lane.active
        labels = model, network.provider, network.precision
        found["mattebox_model_serving"][labels] = serving and network.is_serving
    return found
