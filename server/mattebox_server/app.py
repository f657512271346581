"""Builds the server of its parts and runs it: start, serve, drain."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import cv2
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mattebox_server import logs
from mattebox_server.admission.admission import Admission
from mattebox_server.admission.lane import QueueLimits
from mattebox_server.admission.reception import Reception
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.reloading import Reloader
from mattebox_server.errors import MatteboxError, StartupError
from mattebox_server.imaging import heif
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.memory import give_back_when_idle, tune_malloc
from mattebox_server.named import Maker
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.rpc.access import Callers, TokenInterceptor
from mattebox_server.rpc.calls import Calls
from mattebox_server.rpc.health import HealthReporter
from mattebox_server.rpc.listening import bind, is_local
from mattebox_server.rpc.service import SERVICE_NAME, BackgroundRemovalService
from mattebox_server.rpc.wire import Wire
from mattebox_server.security.proxies import TrustedProxies
from mattebox_server.security.tls import Certificates
from mattebox_server.security.tokens import TokenFile
from mattebox_server.settings import Settings, unknown_variables
from mattebox_server.telemetry.telemetry import Telemetry

log = structlog.stdlib.get_logger(__name__)

# gRPC counts a call as done when the last of its answer is handed to the connection, and then closes it: what the
# caller's side has sent meanwhile turns the close into a reset, and the end of a large answer is lost (seen with
# answers of 10 MB). So the connections stay open a little longer than the calls.
_FLUSH_S = 0.5
_CUT_OFF_S = 1.0
_RECEIVE_S, _SEND_S = 30.0, 60.0  # how long a request may take to arrive, and a caller to take its answer
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
_LEAST_PING_MS = 10_000
_OPEN = (
    "address: {address} is open to other machines, and without TLS what they send can be read on its way: set"
    " tls_certificate and tls_key, listen on 127.0.0.1 or unix:PATH, or set allow_insecure if what is in front of the"
    " server keeps others out"
)


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT and ends the process, or returns 1 if the server can't start."""
    logs.configure(settings.log_format, settings.log_level)
    for name, near in unknown_variables().items():
        log.warning("an environment variable is no setting of the server", variable=name, did_you_mean=near or None)
    warnings.filterwarnings("ignore", module="PIL")  # hostile files must not fill the log
    tune_malloc()
    heif.enable()
    cv2.setNumThreads(1)  # photos are the unit of parallelism: one thread each, as many at once as there are threads
    with asyncio.Runner() as runner:
        try:
            runner.run(_serve(settings))
            # Threads may still run that nobody waits for: for minutes one that compiles a model, which nothing can
            # interrupt, and for 20 s gRPC's own where a caller that was cut off takes nothing.
            _exit(0)
        except (StartupError, MatteboxError) as error:
            log.error("the server can't start", reason=str(error))
    return 1


async def _serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    signals = _Signals()
    telemetry = Telemetry(settings.metrics_address, settings.otlp_endpoint, SERVICE_NAME)
    front = _front(settings, Calls(telemetry.observers))
    address = await _listen(front, settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_cut_off, front.server)
        await stack.enter_async_context(telemetry.published(front.service.levels))
        maker = stack.enter_context(contextlib.closing(Maker(replace(settings.making, observer=telemetry.engine))))
        engine = await _load(settings, telemetry, maker, signals.stop)
        if engine is None:
            log.info("stopped while loading")
            return
        stack.callback(engine.close)
        await _open_for_requests(front, settings, engine, stack)
        signals.on_hangup(stack.enter_context(contextlib.closing(Reloader(engine, settings.reload_models_seconds))).ask)
        log.info("serving", address=address, models=[network.spec.name for network in engine.networks])
        await signals.stop.wait()
        await _drain(front, settings)
    log.info("stopped")


class _Signals:
    """Handles SIGTERM, SIGINT and SIGHUP.

    Attributes:
        stop: an event that the first SIGTERM or SIGINT sets. A second one ends the process.
    """

    def __init__(self) -> None:
        self.stop, self._hung_up = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)

    def on_hangup(self, act: Callable[[], None]) -> None:
        """Calls back for each SIGHUP, and now if there was one before."""
        self._loop.add_signal_handler(signal.SIGHUP, act)
        if self._hung_up.is_set():
            act()

    def _stop(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            log.warning("a second signal: ended at once", signal=number.name)
            _exit(128 + number)
        self.stop.set()


@dataclass(frozen=True)
class Front:
    """All that callers meet, before there is a model. `callers` are the names of the tokens; None without tokens."""

    server: aio.Server
    service: BackgroundRemovalService
    calls: Calls
    health: health.aio.HealthServicer
    callers: tuple[str, ...] | None


def _front(settings: Settings, calls: Calls) -> Front:
    tokens = TokenFile(settings.token_file) if settings.token_file else None
    wire = Wire(Reception(settings.memory.receiving, _RECEIVE_S), _SEND_S)
    callers = Callers(tokens.identify if tokens else None, TrustedProxies(settings.trusted_proxies))
    service = BackgroundRemovalService(settings.max_message_bytes, wire, calls, callers)
    health_service = health.aio.HealthServicer()
    server = grpc_server(settings, service, health_service, tokens)
    return Front(server, service, calls, health_service, None if tokens is None else tokens.names)


async def _listen(front: Front, settings: Settings) -> str:
    """Binds the address and starts the server, which is not serving yet; returns where it listens."""
    port = _bind(front.server, settings)
    await HealthReporter(front.health, SERVICE_NAME).report_starting()
    await front.server.start()
    host = settings.address.rpartition(":")[0]
    address = settings.address if settings.address.startswith("unix:") else f"{host}:{port}"
    log.info(
        "listening",
        address=address,
        provider=settings.provider,
        tls=settings.tls_files is not None,
        mutual_tls=settings.tls_client_ca is not None,
        tokens=None if front.callers is None else len(front.callers),
    )
    return address


async def _open_for_requests(
    front: Front, settings: Settings, engine: Engine, stack: contextlib.AsyncExitStack
) -> None:
    """Takes requests from now on; what that needs is closed with the stack."""
    active = settings.active_on(network.provider for network in engine.networks)
    queues = QueueLimits(active, settings.max_queue, settings.max_wait_seconds)
    models = tuple(network.spec.name for network in engine.networks)
    admission = Admission(models, queues, settings.memory.work_bytes)
    limits = PhotoLimits(settings.max_photo_bytes, settings.max_photo_pixels)
    pipeline = Pipeline(engine, admission, limits, settings.threads)
    stack.callback(pipeline.close)
    await pipeline.warm_up()
    front.service.serve(pipeline)
    reporter = HealthReporter(front.health, SERVICE_NAME)
    await reporter.report(engine)
    for work in (give_back_when_idle(front.calls), reporter.follow(engine)):
        stack.callback(asyncio.create_task(work).cancel)


async def _drain(front: Front, settings: Settings) -> None:
    """Lets the calls that run come to their end, for as long as the settings allow, and takes no new ones."""
    log.info("draining", running=front.calls.running, grace_seconds=settings.grace_seconds)
    await front.health.enter_graceful_shutdown()
    await asyncio.sleep(settings.drain_seconds)  # callers that watch the health go elsewhere meanwhile
    front.service.drain()
    if not await _finish_calls(front.calls, settings.grace_seconds):
        log.warning("the grace period is over", running=front.calls.running)
    await _cut_off(front.server)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(
            front.calls.idle(), _CUT_OFF_S
        )  # calls that are cut off end before the parts that they use


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
    """Ends all calls and connections. Where the other end takes nothing it waits a second; gRPC would wait 20 s."""
    await asyncio.wait({asyncio.ensure_future(server.stop(0))}, timeout=_CUT_OFF_S)


async def _load(settings: Settings, telemetry: Telemetry, maker: Maker, stop: asyncio.Event) -> Engine | None:
    """Makes and loads the models, off the event loop, which answers health checks; None if a signal came first."""
    engine: Future[Engine] = Future()
    options = replace(settings.engine, observer=telemetry.engine)

    def load() -> None:
        try:
            engine.set_result(load_engine(maker.files(settings.model), options))
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
    """Makes gRPC's server with all services, neither bound nor started."""
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
