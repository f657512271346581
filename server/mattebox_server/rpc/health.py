"""Tells the health service whether the server and each of its models serve."""

import asyncio

from grpc_health.v1 import health, health_pb2

from mattebox_server.engine.engine import Engine

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthReporter:
    """Sets the states that health checks get.

    The names `""` and that of the contract's service stand for the server, which is SERVING while its default model is;
    `SERVICE/MODEL` stands for a model.

    Args:
        service: the health service, which answers the checks.
        service_name: the full name of the contract's service.
    """

    def __init__(self, service: health.aio.HealthServicer, service_name: str) -> None:
        self._service, self._service_name = service, service_name

    async def report_starting(self) -> None:
        """Reports NOT_SERVING for a server that has no models yet."""
        for name in ("", self._service_name):
            await self._service.set(name, _NOT_SERVING)

    async def report(self, engine: Engine) -> None:
        """Reports the present state of the server and of each model."""
        networks = engine.networks
        serving = {f"{self._service_name}/{network.spec.name}": network.is_serving for network in networks}
        serving |= dict.fromkeys(("", self._service_name), networks[0].is_serving)
        for name, is_serving in serving.items():
            await self._service.set(name, _SERVING if is_serving else _NOT_SERVING)

    async def follow(self, engine: Engine) -> None:
        """Reports whenever a model starts or stops serving, until it is cancelled."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        engine.on_change(tell)
        while True:
            await self.report(engine)
            await changed.wait()
            changed.clear()
