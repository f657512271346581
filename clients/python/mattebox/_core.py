"""Connections, timeouts and attempts, which both clients share."""

from __future__ import annotations

import ipaddress
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from mattebox.errors import DeadlineExceeded, MatteboxError, Metadata, from_status, request_id_of
from mattebox.security import Tls

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 5.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
DEFAULT_KEEPALIVE_S = 30.0
DEFAULT_CONCURRENCY = 8
READY_INTERVAL_S = 0.2
_LEAST_KEEPALIVE_S = 10  # servers close connections that are tested more often
_KEEPALIVE_TIMEOUT_MS = 10_000
_FOR_EVER_S = 1e9
_MAX_PORT = 65535
_SCHEMES = ("unix:", "dns:", "ipv4:", "ipv6:", "unix-abstract:", "vsock:", "xds:")

# The client writes and reads the two messages of gRPC's health service as bytes: an empty request asks for the server
# as a whole, and in the answer SERVING is field 1, a varint with the value 1. So grpcio-health-checking isn't needed.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
HEALTH_SERVING = b"\x08\x01"
NOT_SERVING = "the server starts or drains"


MAX_RETRIES = 4  # gRPC makes at most five attempts
_SERVICE = "mattebox.v1.BackgroundRemovalService"
_RETRIED = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
# gRPC's budget of retries: a failed attempt takes a token, an answer gives half a token back, and below half of the
# tokens nothing is repeated, so that many clients don't make an outage worse.
_RETRY_BUDGET = {"maxTokens": 100, "tokenRatio": 0.5}


@dataclass(frozen=True)
class Connection:
    """How servers are reached: the arguments of both clients, checked.

    Args:
        address: HOST:PORT, a list of IP:PORT whose servers are used in turn, or a target in gRPC's syntax.
        tls: True to trust the system's authorities, False for no encryption, or the settings of TLS.
        token: the token that is sent with every call; None for none.
        retries: the number of further attempts, 0 to 4, of a call that no server took.
        max_message_bytes: the largest request and the largest answer in bytes.
        allow_insecure: whether the token may be sent without TLS to other machines.
        keepalive: the seconds of silence in a call after which the connection is tested; None for never.

    Raises:
        ValueError: an argument is wrong in itself.
    """

    address: str | Sequence[str]
    tls: bool | Tls
    token: str | None
    retries: int
    max_message_bytes: int
    allow_insecure: bool
    keepalive: float | None

    def __post_init__(self) -> None:
        if self.max_message_bytes < 1:
            raise ValueError(f"max_message_bytes must be 1 or more, not {self.max_message_bytes}")
        if self.keepalive is not None and not _LEAST_KEEPALIVE_S <= self.keepalive < _FOR_EVER_S / 1000:
            raise ValueError(f"keepalive must be {_LEAST_KEEPALIVE_S} seconds or more, or None, not {self.keepalive}")
        if not 0 <= self.retries <= MAX_RETRIES:
            raise ValueError(f"retries must be 0 to {MAX_RETRIES}, not {self.retries}")
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ValueError("token must be printable ASCII, and not empty")
        if self.token is not None and not self.tls and not self.allow_insecure and not _is_local(self.target):
            raise ValueError(f"the token would go to {self.target} in the clear: use tls, or allow_insecure=True")

    @property
    def target(self) -> str:
        """The address in gRPC's syntax. Raises ValueError for an impossible address."""
        return target_of(self.address)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of the channel; None without TLS. Raises OSError for a file that can't be read."""
        if not self.tls:
            return None
        return (Tls() if self.tls is True else self.tls).credentials()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    @property
    def options(self) -> list[tuple[str, str | int]]:
        """The options of the channel.

        They raise gRPC's limit of 4 MiB, which is below a photo, and keep whole messages so that gRPC can repeat them.
        """
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.per_rpc_retry_buffer_size", self.max_message_bytes),
            ("grpc.initial_reconnect_backoff_ms", 200),
            (
                "grpc.max_reconnect_backoff_ms",
                3000,
            ),  # the default would notice a restarted server after up to two minutes
            ("grpc.service_config", json.dumps(self._service_config())),
        ]
        if self.keepalive is not None:
            options += [
                ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
                (
                    "grpc.http2.ping_timeout_ms",
                    _KEEPALIVE_TIMEOUT_MS,
                ),  # its default of a minute would override the one above
                ("grpc.http2.max_pings_without_data", 0),  # a photo may take longer than two tests of the connection
            ]
        if isinstance(self.tls, Tls) and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def _service_config(self) -> dict[str, object]:
        method: dict[str, object] = {"name": [{"service": _SERVICE}]}
        if self.retries:
            method["retryPolicy"] = {
                "maxAttempts": self.retries + 1,
                "initialBackoff": "0.1s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": _RETRIED,
            }
        config: dict[str, object] = {"methodConfig": [method]}
        if self.retries:
            config["retryThrottling"] = _RETRY_BUDGET
        if self.target.startswith(("ipv4:", "ipv6:", "dns:")):  # of several servers, those that serve are used in turn
            config |= {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
        return config


def target_of(address: str | Sequence[str]) -> str:
    """Returns one address unchanged, and several as a list in gRPC's syntax. Raises ValueError."""
    if isinstance(address, str):
        return checked_address(address)
    if not address:
        raise ValueError("address is an empty list")
    places = [checked_address(each).rpartition(":") for each in address]
    try:
        families = {ipaddress.ip_address(host.strip("[]")).version for host, _, _ in places}
    except ValueError as error:
        raise ValueError(
            f"{error}: of several addresses each must be IP:PORT; dns:///NAME:PORT finds all of a name"
        ) from error
    if len(families) > 1:
        raise ValueError("several addresses must be all of IPv4 or all of IPv6")
    return f"ipv{families.pop()}:" + ",".join(f"{host}:{port}" for host, _, port in places)


def _is_local(target: str) -> bool:
    """Whether a target is certainly on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    return all(
        part.rpartition(":")[0].strip("[]") == "localhost" or _is_loopback(part.rpartition(":")[0].strip("[]"))
        for part in target.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def error_of(error: grpc.RpcError | grpc.aio.AioRpcError) -> MatteboxError:
    """Returns the SDK's error for one of gRPC's, which is the failed call itself."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        raise error
    initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
    return from_status(error.code(), error.details() or "", initial, trailing)


def checked_address(address: str) -> str:
    """Returns the address. Raises ValueError for a missing or impossible port, for which gRPC would use another."""
    if "://" in address or address.startswith(_SCHEMES):
        return address
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(f"address {address!r} must be HOST:PORT with a port of 1 to {_MAX_PORT}")
    return address


def checked_timeout(timeout_s: float | None) -> float | None:
    """Returns a timeout, or None for more seconds than gRPC can count. Raises ValueError for NaN."""
    if timeout_s is None or timeout_s > _FOR_EVER_S:
        return None
    if math.isnan(timeout_s):
        raise ValueError("timeout is not a number")
    return timeout_s


class Patience:
    """The time that is left to wait for a server.

    Args:
        timeout_s: the whole time in seconds; None for no limit.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._until_s = time.monotonic() + self._timeout_s

    def next_s(self) -> float:
        """Returns the timeout of the next question in seconds."""
        return min(READY_TIMEOUT_S, max(0.0, self._until_s - time.monotonic()))

    def goes_on(self, reason: str | None) -> bool:
        """Whether to ask again: not after None, which means that a server is ready.

        Raises:
            DeadlineExceeded: the time is over; the text holds the reason.
        """
        if reason is not None and time.monotonic() + READY_INTERVAL_S >= self._until_s:
            text = f"no server was ready within {self._timeout_s:g} s: {reason}"
            raise DeadlineExceeded(text, code="DEADLINE_EXCEEDED")
        return reason is not None


class Attempts:
    """The attempts of one call whose answer may break off.

    gRPC itself repeats only a call of whose answer no part has come.

    Args:
        retries: the largest number of attempts after the first.
        timeout_s: the time of all attempts together in seconds; None for no limit.
    """

    def __init__(self, retries: int, timeout_s: float | None) -> None:
        self._left = 1 + retries
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s

    def next_s(self) -> float | None:
        """Counts one more attempt, and returns its timeout in seconds."""
        self._left -= 1
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def may_repeat(self, code: grpc.StatusCode, initial: Metadata) -> bool:
        """Whether an attempt that ended so broke off within its answer, which begins with the request id."""
        return self._left > 0 and code is grpc.StatusCode.UNAVAILABLE and bool(request_id_of(initial))
