"""The log's line for each request."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

import images
import mattebox
from mattebox_server.errors import Overloaded
from mattebox_server.local import LocalServer
from mattebox_server.records import Record, Stage, Timeline
from mattebox_server.rpc.calls import Calls, Refused
from mattebox_server.telemetry import request_log
from mattebox_server.telemetry.request_log import RequestLog

WRITE_ONE = """
import sys
from mattebox_server import logs
from mattebox_server.records import Record, Stage
from mattebox_server.telemetry.request_log import RequestLog

logs.configure(sys.argv[1], "info")
stages = [Stage("receive", 0, 0.0123), Stage("infer", 1, 0.29046)]
record = Record("RemoveBackground", "order-66", 0, seconds=0.5, model="u2netp\\nforged", width_px=4000, height_px=3000)
record.times.extend(stages)
record.request_bytes, record.response_bytes, record.batch_size = 345678, 4444, 1
RequestLog()(record)
"""


def written(log_format: str) -> str:
    """The line as the server's process writes it."""
    command = [sys.executable, "-c", WRITE_ONE, log_format]
    (line,) = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return line


def test_a_line_for_machines() -> None:
    line = json.loads(written("json"))
    del line["timestamp"]
    assert line == {
        "event": "request",
        "level": "info",
        "method": "RemoveBackground",
        "request_id": "order-66",
        "status": "OK",
        "ms": 500.0,
        "model": "u2netp\nforged",
        "size": "4000x3000",
        "request_bytes": 345678,
        "response_bytes": 4444,
        "batch_size": 1,
        "stages_ms": {"receive": 12.3, "infer": 290.5},
    }


def test_a_line_for_people() -> None:
    _, _, shown = written("console").partition("request ")
    assert shown == (
        "method=RemoveBackground request_id=order-66 status=OK ms=500.0 model=u2netp\\nforged size=4000x3000"
        " request_bytes=345678 response_bytes=4444 batch_size=1 stages_ms='receive 12.3, infer 290.5'"
    )


def test_every_request_has_its_line(server: LocalServer) -> None:
    before = len(server.events)  # other tests have their lines there too
    with mattebox.Client(server.address) as client:
        client.remove_background(images.encode(images.scene()), model="brightness")
        with pytest.raises(mattebox.UnknownModel):
            client.remove_background(images.encode(images.scene()), model="x" * 100_000)
    answered = wait_for(server, before, event="request", status="OK", model="brightness")
    assert list(answered["stages_ms"]) == [
        *("receive", "wait", "decode", "preprocess", "queue", "infer", "matte", "encode", "send")
    ]
    assert 0 < sum(answered["stages_ms"].values()) <= answered["ms"] + 1
    assert (answered["size"], answered["level"]) == ("96x64", "info")
    assert answered["request_bytes"] > 100 < answered["response_bytes"]
    refused = wait_for(server, before, event="request", status="NOT_FOUND", model="x" * 64)
    assert refused["reason"].startswith("unknown model")
    assert refused["level"] == "info"


def wait_for(server: LocalServer, since: int, **fields: object) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while True:
        for line in server.events[since:]:
            if fields.items() <= line.items():
                return line
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def refusal(limit: str) -> Record:
    return Record("RemoveBackground", "id", 0, status="RESOURCE_EXHAUSTED", limit=limit, reason="full")


def test_refusals_of_an_overload_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "_WINDOW_S", 0.05)
    now_s = 100.0

    async def overload(events: Sequence[Any]) -> None:
        nonlocal now_s
        write = RequestLog(lambda: now_s)
        for number in range(1000):
            write(refusal("queue_full" if number % 2 else "bytes"))
        write(Record("RemoveBackground", "answered", 0))
        async with asyncio.timeout(30):
            while events[-1]["log_level"] != "warning":  # the line that counts those without one
                await asyncio.sleep(0)
        now_s = 101.0
        write(refusal("deadline"))

    with capture_logs() as events:
        asyncio.run(overload(events))
    shown = [event for event in events if event["log_level"] != "debug"]
    assert [event.get("status") for event in shown] == [
        *["RESOURCE_EXHAUSTED"] * 10,
        "OK",
        None,
        "RESOURCE_EXHAUSTED",
    ]
    assert shown[11] == {
        "event": "requests were refused that have no line here",
        "log_level": "warning",
        "requests": 990,
        "limits": {"bytes": 495, "queue_full": 495},
    }
    assert len(events) == 1003  # at debug level nothing is left out


def test_an_observer_that_fails_harms_nobody() -> None:
    seen: list[str] = []

    def broken(_: Record) -> None:
        raise RuntimeError("no")

    async def ask(calls: Calls, *, overloaded: bool) -> None:
        record = Record("RemoveBackground", "id", time.monotonic(), times=Timeline([Stage("send", 0, 0)]))
        async with calls.track(record):
            if overloaded:
                raise Overloaded("full", 1, "queue_full")

    async def main() -> None:
        calls = Calls([broken, lambda record: seen.append(record.status)])
        await ask(calls, overloaded=False)
        with pytest.raises(Refused):
            await ask(calls, overloaded=True)
        await asyncio.wait_for(calls.idle(), 5)

    with capture_logs() as events:
        asyncio.run(main())
    assert seen == ["OK", "RESOURCE_EXHAUSTED"]
    assert sum(event["event"] == "a request's end was not observed" for event in events) == 2


def test_who_goes_away_at_the_deadline_did_not_cancel() -> None:
    """gRPC's client cancels what is late, on a clock of its own."""

    async def leave(record: Record) -> str:
        with pytest.raises(asyncio.CancelledError):
            async with Calls().track(record):
                raise asyncio.CancelledError
        return record.status

    now_s = time.monotonic()
    statuses = {
        "DEADLINE_EXCEEDED": (now_s - 1, now_s + 0.01),
        "CANCELLED": (now_s + 1000, None),
    }
    for status, deadlines_s in statuses.items():
        for deadline_s in deadlines_s:
            assert asyncio.run(leave(Record("RemoveBackground", "id", now_s, deadline_s))) == status
