"""Binds the address that the server listens on, and tells which addresses other machines can reach."""

from __future__ import annotations  # grpc is generic in its stubs only

import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING

from mattebox_server.errors import StartupError

if TYPE_CHECKING:
    import grpc
    from grpc import aio

_UNIX = "unix:"
# Whoever can write to a unix socket can call. Others never can; the group can if the process's umask lets it (0007).
_SOCKET_UMASK = 0o117


def bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Binds every address that the name stands for, with TLS if there are credentials; returns the port.

    Raises:
        StartupError: the address is in use, or not one of this machine.
    """
    refusal = StartupError(f"can't listen on {address}: is it in use, or not an address of this machine?")
    if _is_taken(address):
        raise refusal
    umask = os.umask(_SOCKET_UMASK)
    os.umask(umask | _SOCKET_UMASK)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise refusal from error
    finally:
        os.umask(umask)
    if port == 0:
        raise refusal
    return port


def is_local(address: str) -> bool:
    """Whether only this machine can reach it: a unix socket, or a host all of whose addresses are loopback.

    Raises:
        StartupError: there is no such host.
    """
    if address.startswith(_UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartupError(f"address: {host} is no address and no name of one") from error
    return all(_is_loopback(str(place[0])) for *_, place in found)


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_taken(address: str) -> bool:
    """Whether another server listens on the address already.

    gRPC is content if it gets one of several addresses of a name, and replaces a unix socket that is in use.
    """
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(address.removeprefix("unix:").removeprefix("//")) == 0
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return False  # no such name: gRPC says so
    for family, kind, protocol, _, place in found if port != "0" else ():
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False
