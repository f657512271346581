"""Traces, as a collector gets them from a real server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import images
from altered import altered_server
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

PHOTO = images.encode(images.scene())
SERVICE = "mattebox.v1.BackgroundRemovalService"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
STAGES = ["receive", "wait", "decode", "preprocess", "queue", "infer", "matte", "encode", "send"]
CALLER_SPAN = "00f067aa0ba902b7"


class Collector(grpc.GenericRpcHandler):
    """Takes OTLP over gRPC on a free port.

    Attributes:
        spans: that came so far.
        resource: who sent them.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((self,))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
        )

    def _export(self, request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:
        for sent in request.resource_spans:
            self.resource = {each.key: each.value.string_value for each in sent.resource.attributes}
            for scope in sent.scope_spans:
                self.spans.extend(scope.spans)
        return ExportTraceServiceResponse()

    def requests(self, trace_id: str | None = None) -> list[Span]:
        """The spans of whole requests."""
        traced = [span for span in self.spans if trace_id in (None, span.trace_id.hex())]
        return [span for span in traced if span.name.startswith(SERVICE)]

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, once there is the request's and no more come."""
        deadline_s = time.monotonic() + 30
        while not self.requests(trace_id):
            assert time.monotonic() < deadline_s, self.spans
            time.sleep(0.01)
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture(scope="module")
def collector() -> Generator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, colour_model: Path) -> Generator[LocalServer]:
    own = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    flags = ["--provider", "cpu", "--otlp-endpoint", collector.endpoint]
    with altered_server([colour_model], flags, "app._RECEIVE_S = 0.5", environment={**os.environ, **own}) as server:
        yield server


@pytest.fixture
def channel(traced: LocalServer) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(traced.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.BackgroundRemovalServiceStub(channel)


def traceparent(trace_id: str, flags: str = "01") -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace_id}-{CALLER_SPAN}-{flags}"),)


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_is_one_trace_with_a_span_for_each_stage(stub: Any, collector: Collector) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    before_ns = time.time_ns()
    metadata = (*traceparent(trace_id), ("x-request-id", "order-66"))
    stub.RemoveBackground(pb.RemoveBackgroundRequest(encoded=PHOTO), metadata=metadata, timeout=30)
    after_ns = time.time_ns()
    whole, *stages = collector.trace(trace_id)[::-1]
    assert (whole.name, whole.kind) == (f"{SERVICE}/RemoveBackground", Span.SPAN_KIND_SERVER)
    assert whole.parent_span_id.hex() == CALLER_SPAN
    assert sorted(stages, key=lambda span: span.start_time_unix_nano) == stages[::-1]
    assert [span.name for span in stages[::-1]] == STAGES
    moment_ns = 1_000_000  # how far two clocks may be apart
    assert before_ns - moment_ns <= whole.start_time_unix_nano < whole.end_time_unix_nano
    for span in stages:
        assert span.parent_span_id == whole.span_id
        assert whole.start_time_unix_nano - 1000 <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano + 1000
    send = stages[0]
    assert send.start_time_unix_nano <= after_ns + moment_ns
    found = attributes(whole)
    assert found.pop("mattebox.request_bytes") > len(PHOTO) < found.pop("mattebox.response_bytes")
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.system": "grpc",
        "rpc.method": f"{SERVICE}/RemoveBackground",
        "rpc.response.status_code": "OK",
        "mattebox.request_id": "order-66",
        "mattebox.model": "colour",
        "mattebox.provider": "cpu",
        "mattebox.batch_size": 1,
    }
    assert whole.status.code == Status.STATUS_CODE_UNSET
    assert collector.resource["service.name"] == "mattebox"
    assert collector.resource["deployment.environment.name"] == "test"


def test_the_callers_choice_is_kept(stub: Any, collector: Collector) -> None:
    unwanted, wanted = "1" * 32, "2" * 32
    for metadata in (traceparent(unwanted, "00"), traceparent(wanted)):
        stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=30)
    collector.trace(wanted)  # which came later
    assert not collector.requests(unwanted)


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (("traceparent", "nonsense"),),
        traceparent("0" * 32),
        (("traceparent", f"ff-{'3' * 32}-{CALLER_SPAN}-01"),),
        (("traceparent", "x" * 4000),),
    ],
    ids=["none", "nonsense", "zeros", "version", "long"],
)
def test_a_trace_begins_here_where_the_caller_has_none(
    stub: Any, collector: Collector, sent: tuple[tuple[str, str], ...], request: pytest.FixtureRequest
) -> None:
    name = re.sub(r"\W", "-", request.node.name)
    stub.ListModels(pb.ListModelsRequest(), metadata=(*sent, ("x-request-id", name)), timeout=30)
    deadline_s = time.monotonic() + 30
    while not (spans := [s for s in collector.requests() if attributes(s)["mattebox.request_id"] == name]):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert not spans[0].parent_span_id
    assert spans[0].trace_id.hex() not in ("0" * 32, "3" * 32)


def test_what_goes_wrong_is_told(channel: grpc.Channel, stub: Any, collector: Collector) -> None:
    mistake, late = "5" * 32, "6" * 32
    request = pb.RemoveBackgroundRequest(encoded=PHOTO, model="x" * 1000)
    with pytest.raises(grpc.RpcError):
        stub.RemoveBackground(request, metadata=traceparent(mistake), timeout=30)
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(30)
        yield from ()

    call = cast("Any", channel.stream_unary(f"/{SERVICE}/RemoveBackground"))
    with pytest.raises(grpc.RpcError):
        call(nothing(), metadata=traceparent(late), timeout=30)
    over.set()
    (span,) = [span for span in collector.trace(mistake) if span.name.startswith(SERVICE)]
    assert span.status.code == Status.STATUS_CODE_UNSET  # the server did as it should
    assert attributes(span)["rpc.response.status_code"] == "NOT_FOUND"
    assert attributes(span)["mattebox.model"] == "x" * 64
    (span,) = [span for span in collector.trace(late) if span.name.startswith(SERVICE)]
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


def test_what_is_left_is_sent_at_the_end(collector: Collector, colour_model: Path) -> None:
    patient = {**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    flags = ["--provider", "cpu", "--otlp-endpoint", collector.endpoint]
    with LocalServer([colour_model], flags, patient) as server, grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        stub.ListModels(pb.ListModelsRequest(), metadata=traceparent("8" * 32), timeout=30)
    assert collector.requests("8" * 32)


def test_a_collector_that_does_not_answer_holds_nobody_up(colour_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        flags = ["--provider", "cpu", "--otlp-endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        small = {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64"}
        with (
            LocalServer([colour_model], flags, {**os.environ, **small, "OTEL_BSP_SCHEDULE_DELAY": "10"}) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = pb_grpc.BackgroundRemovalServiceStub(channel)
            for _ in range(30):  # ten spans each
                stub.RemoveBackground(pb.RemoveBackgroundRequest(encoded=PHOTO), timeout=30)
            assert server.stop() == 0
    said = [event["event"] for event in server.events]
    assert "Queue full, dropping Span." in said
    assert "traces were not delivered in time" in said
    assert "stopped" in said


def test_the_extra_is_asked_for_by_name() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from mattebox_server.settings import load_settings\n"
        "from mattebox_server.telemetry.telemetry import Telemetry\n"
        "settings = load_settings(sys.argv[1:]); Telemetry(None, settings.otlp_endpoint, 'service')"
    )
    command = [sys.executable, "-c", code, "--model", "a.onnx"]
    without = subprocess.run([*command, "--otlp-endpoint", "http://h:1"], capture_output=True, text=True, check=False)
    assert "StartupError: otlp_endpoint needs the extra `otel`: pip install 'mattebox[otel]'" in without.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_an_environment_that_turns_it_off_is_not_passed_over(colour_model: Path) -> None:
    off = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    with pytest.raises(StartupError, match="OTEL_SDK_DISABLED"):
        LocalServer([colour_model], ["--otlp-endpoint", "http://127.0.0.1:1"], off).__enter__()
