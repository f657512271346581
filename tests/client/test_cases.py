"""Runs the table of cases that all clients share with both Python clients."""

import base64
import dataclasses
import json
from collections.abc import Generator
from typing import Any

import pytest
from google.protobuf import json_format

import mattebox
from case_server import CASES, case_server
from mattebox.v1 import background_removal_pb2 as pb
from shells import Shell, open_shell


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    with case_server() as address:
        yield address


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, address: str) -> Generator[Shell]:
    shell = open_shell(request.param, address, retries=0)
    yield shell
    shell.close()


def cases(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[section], ids=[case["name"] for case in CASES[section]])


def call(client: Shell, case: dict[str, Any]) -> mattebox.RemovalResult:
    return client.remove_background(photo_of(case.get("photo", {"encoded_base64": "cGhvdG8="})), **options_of(case))


def photo_of(words: dict[str, Any]) -> mattebox.PhotoSource:
    if "encoded_base64" in words:
        return base64.b64decode(words["encoded_base64"])
    raw = dict(words["raw"])
    return mattebox.RawPhoto(base64.b64decode(raw.pop("data_base64")), **raw)


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    options = dict(case["options"])
    if "output" in options:
        options["output"] = mattebox.Output(**options["output"])
    if isinstance(options.get("matte"), dict):
        options["matte"] = mattebox.Matte(**options["matte"])
    if isinstance(options.get("background"), dict):
        ((kind, value),) = options["background"].items()
        makers = {
            "color": lambda: mattebox.Background.color(*value),
            "blur": lambda: mattebox.Background.blur(value),
            "image_base64": lambda: mattebox.Background.image(base64.b64decode(value)),
            "transparent": mattebox.Background.transparent,
        }
        options["background"] = makers[kind]()
    return options


def sent(case: dict[str, Any]) -> Any:
    """Returns the message of a case as canonical JSON, which leaves out defaults."""
    message = json_format.ParseDict(case["message"], pb.RemoveBackgroundRequest())
    return json_format.MessageToDict(message)


@cases("options")
def test_options(client: Shell, case: dict[str, Any]) -> None:
    assert json.loads(call(client, case).image) == sent(case)


@cases("invalid")
def test_invalid(client: Shell, case: dict[str, Any]) -> None:
    with pytest.raises(mattebox.InvalidRequest) as caught:
        call(client, case)
    assert [dataclasses.asdict(violation) for violation in caught.value.violations] == case["violations"]
    assert caught.value.request_id == ""
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == "; ".join(f"{v['field']}: {v['description']}" for v in case["violations"])


@cases("refused")
def test_refused(client: Shell, case: dict[str, Any]) -> None:
    with pytest.raises(mattebox.InvalidRequest) as caught:
        call(client, case)
    assert [dataclasses.asdict(violation) for violation in caught.value.violations] == case["violations"]
    assert caught.value.request_id == "case-1"


@cases("statuses")
def test_statuses(client: Shell, case: dict[str, Any]) -> None:
    with pytest.raises(mattebox.MatteboxError) as caught:
        client.remove_background(b"photo", model=f"status:{case['name']}")
    error = caught.value
    assert {
        "type": type(error).__name__,
        "code": error.code,
        "message": str(error),
        "violations": [dataclasses.asdict(violation) for violation in error.violations],
        "retry_after_s": error.retry_after and error.retry_after.total_seconds(),
        "request_id": error.request_id,
    } == case["error"]


@cases("results")
def test_results(client: Shell, case: dict[str, Any]) -> None:
    found = dataclasses.asdict(client.remove_background(b"photo", model=f"result:{case['name']}"))
    for name in ("image", "alpha"):
        data = found.pop(name)
        found[f"{name}_base64"] = data and base64.b64encode(data).decode()
    timings = found.pop("timings")
    found["timings_ms"] = {stage: time.total_seconds() * 1000 for stage, time in timings.items()}
    found["subjects"] = list(found["subjects"])
    assert found == case["result"]


def test_the_table_knows_every_kind_of_error() -> None:
    kinds = {case["error"]["type"] for case in CASES["statuses"]}
    names = {name for name in mattebox.__all__ if isinstance(getattr(mattebox, name), type)}
    errors = {name for name in names if issubclass(getattr(mattebox, name), mattebox.MatteboxError)}
    assert errors - kinds == {"MatteboxError"}


def test_the_table_knows_every_option() -> None:
    """Each field of a request that the contract has is sent in one of the cases."""
    sent: set[str] = set()
    for case in CASES["options"]:
        sent |= fields_of(json_format.ParseDict(case["message"], pb.RemoveBackgroundRequest()))
    assert sent == all_fields(pb.RemoveBackgroundRequest.DESCRIPTOR)


def fields_of(message: Any) -> set[str]:
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(field.full_name)
        if field.message_type and not isinstance(value, str | bytes):
            found |= fields_of(value)
    return found


def all_fields(descriptor: Any) -> set[str]:
    found: set[str] = set()
    for field in descriptor.fields:
        found |= {field.full_name} | (all_fields(field.message_type) if field.message_type else set())
    return found
