"""Puts the parts together and runs them: start, serve, drain."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NoReturn

import cv2
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mattebox_server import logs
from mattebox_server.admission.admission import Admission
from mattebox_server.admission.budget import Budget
from mattebox_server.admission.lane import LaneLimits
from mattebox_server.admission.reception import Reception
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.reloading import Reloader
from mattebox_server.errors import MatteboxError, StartupError
from mattebox_server.imaging.codec import Limits
from mattebox_server.memory import give_back_when_idle, tune_malloc
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.rpc.access import TokenInterceptor
from mattebox_server.rpc.calls import Calls
from mattebox_server.rpc.health import HealthReporter
from mattebox_server.rpc.listening import bind, is_local
from mattebox_server.rpc.service import SERVICE_NAME, BackgroundRemovalService
from mattebox_server.rpc.wire import Wire
from mattebox_server.security.tls import Certificates
from mattebox_server.security.tokens import TokenFile
from mattebox_server.settings import Settings
from mattebox_server.telemetry.telemetry import Telemetry

log = structlog.stdlib.get_logger(__name__)

# gRPC counts a call as done when the last of its answer is handed to the connection, and then closes it: what the
# caller's side has sent meanwhile turns the close into a reset, and the end of a large answer is lost (seen with
# answers of 10 MB). So the connections stay open a little longer than the calls.
_FLUSH_S = 0.5
_CUT_OFF_S = 1.0
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
_LEAST_PING_MS = 10_000
_OPEN = (
    "address: {address} is open to other machines, and without TLS what they send can be read on its way: set"
    " tls_certificate and tls_key, listen on 127.0.0.1 or unix:PATH, or set allow_insecure if what is in front of the"
    " server keeps others out"
)


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    logs.configure(settings.log_format, settings.log_level)
    warnings.filterwarnings("ignore", module="PIL")  # hostile files must not fill the log
    tune_malloc()
    cv2.setNumThreads(1)  # photos are the unit of parallelism: one thread each, `pixel_threads` photos at once
    try:
        building = asyncio.run(_serve(settings))
    except (StartupError, MatteboxError) as error:
        log.error("the server can't start", reason=str(error))
        return 1
    if building:  # a provider that compiles can't be interrupted, and may be at it for minutes: nothing waits for it
        _exit(0)
    return 0


async def _serve(settings: Settings) -> bool:
    """Serves until a signal; returns whether a model is still being loaded, reloaded or rebuilt."""
    stop, hangup, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)  # kept until there is something to reload
    tokens = TokenFile(settings.token_file) if settings.token_file else None
    telemetry = Telemetry(settings.metrics_address, settings.otlp_endpoint, SERVICE_NAME)
    calls = Calls(telemetry.observers)
    service = _service(settings, calls, tokens)
    health_service = health.aio.HealthServicer()
    server = grpc_server(settings, service, health_service, tokens)
    port = _bind(server, settings)
    reporter = HealthReporter(health_service, SERVICE_NAME)
    await reporter.report_starting()
    await server.start()
    host = settings.address.rpartition(":")[0]
    address = settings.address if settings.address.startswith("unix:") else f"{host}:{port}"
    log.info(
        "listening",
        address=address,
        provider=settings.provider,
        tls=settings.tls_files is not None,
        mutual_tls=settings.tls_client_ca is not None,
        tokens=None if tokens is None else len(tokens.names),
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_cut_off, server)
        await stack.enter_async_context(telemetry.published(service.levels))
        engine = await _load(settings, telemetry, stop)
        if engine is None:
            log.info("stopped while loading")
            return True
        stack.callback(engine.close)
        pipeline = _pipeline(settings, engine)
        stack.callback(pipeline.close)
        await pipeline.warm_up()
        tidying = asyncio.create_task(give_back_when_idle(calls))
        stack.callback(tidying.cancel)
        service.serve(pipeline)
        await reporter.report(engine)
        reporting = asyncio.create_task(reporter.follow(engine))
        stack.callback(reporting.cancel)
        reloader = Reloader(engine, settings.reload_models_seconds)
        stack.callback(reloader.close)
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        if hangup.is_set():
            reloader.ask()
        log.info("serving", address=address, models=[network.spec.name for network in engine.networks])
        await stop.wait()
        log.info("draining", running=calls.running, grace_seconds=settings.grace_seconds)
        await health_service.enter_graceful_shutdown()
        await asyncio.sleep(settings.drain_seconds)  # callers that watch the health go elsewhere meanwhile
        service.drain()
        if not await _finish_calls(calls, settings.grace_seconds):
            log.warning("the grace period is over", running=calls.running)
        await _cut_off(server)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(calls.idle(), _CUT_OFF_S)  # those that are cut off end before what they use does
    log.info("stopped")
    return engine.is_building


def _service(settings: Settings, calls: Calls, tokens: TokenFile | None) -> BackgroundRemovalService:
    budget = Budget("bytes", settings.in_flight_bytes)
    wire = Wire(Reception(settings.max_receiving, settings.receive_seconds), budget, settings.send_seconds)
    return BackgroundRemovalService(settings.max_message_bytes, wire, calls, tokens.identify if tokens else None)


def _pipeline(settings: Settings, engine: Engine) -> Pipeline:
    active = settings.active_on(network.provider for network in engine.networks)
    lanes = LaneLimits(active, settings.max_queue, settings.max_wait_seconds)
    models = tuple(network.spec.name for network in engine.networks)
    limits = Limits(settings.max_photo_bytes, settings.max_photo_pixels)
    return Pipeline(engine, Admission(models, lanes, settings.max_pixels), limits, settings.pixel_threads)


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    """The first signal drains, the second ends the process."""
    if stop.is_set():
        log.warning("a second signal: ended at once", signal=number.name)
        _exit(128 + number)
    stop.set()


def _exit(code: int) -> NoReturn:
    """Ends the process without waiting for any thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _finish_calls(calls: Calls, within_s: float) -> bool:
    """Waits until no call runs and the last answers are out; False if that takes too long."""
    try:
        async with asyncio.timeout(within_s):
            await calls.idle()
    except TimeoutError:
        return False
    await asyncio.sleep(_FLUSH_S)
    return True


async def _cut_off(server: aio.Server) -> None:
    """Ends all calls and connections, but waits for none whose other end takes nothing: gRPC would, for 20 s."""
    await asyncio.wait({asyncio.ensure_future(server.stop(0))}, timeout=_CUT_OFF_S)


async def _load(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> Engine | None:
    """Loads the models, off the event loop so that health checks are answered; None if a signal came first."""
    engine: Future[Engine] = Future()
    options = replace(settings.engine, observer=telemetry.engine)

    def load() -> None:
        try:
            engine.set_result(load_engine(settings.model, options))
        except BaseException as error:  # noqa: BLE001 - for whoever waits
            engine.set_exception(error)

    threading.Thread(target=load, name="loading", daemon=True).start()
    loading, stopping = asyncio.wrap_future(engine), asyncio.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {loading, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        stopping.cancel()
        return loading.result()
    return None


def grpc_server(
    settings: Settings,
    service: BackgroundRemovalService,
    health_service: health.aio.HealthServicer,
    tokens: TokenFile | None = None,
) -> aio.Server:
    """A server with everything on it, not bound and not started."""
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # bounded by the photo's pixels
        ("grpc.so_reuseport", 0),  # else a second server would take half of the first one's callers in silence
        # Callers that are gone without a word are noticed, and those that ping more often than needed are let.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # else a minute, whatever the one above says
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MS),
    ]
    # The service asks for tokens itself, so that its refusals are counted as its calls; probes of health have none.
    asking = [TokenInterceptor(tokens.identify, (SERVICE_NAME, health.SERVICE_NAME))] if tokens else []
    server = aio.server(interceptors=asking, options=options)
    server.add_generic_rpc_handlers((service.handlers(),))
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _bind(server: aio.Server, settings: Settings) -> int:
    """Binds the address, with TLS if it is set; returns the port. Raises StartupError."""
    certificates = Certificates(settings.tls_files) if settings.tls_files else None
    if certificates is None and not is_local(settings.address):
        if not settings.allow_insecure:
            raise StartupError(_OPEN.format(address=settings.address))
        log.warning("others on the network can read photos and tokens: there is no TLS", address=settings.address)
    return bind(server, settings.address, certificates.credentials() if certificates else None)
