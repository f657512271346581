"""Proxies whose word is taken for who calls."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import unquote

UNIX = "unix"


class TrustedProxies:
    """The addresses that proxies call from.

    Args:
        places: IP addresses and networks, such as 10.0.0.0/8; and `unix`, for whoever connects to a unix socket.

    Raises:
        ValueError: one of them is none of these.
    """

    def __init__(self, places: Sequence[str] = ()) -> None:
        self._unix = UNIX in places
        self._networks = [ipaddress.ip_network(place) for place in places if place != UNIX]

    def trusts(self, peer: str) -> bool:
        """Whether a peer is one of them.

        Args:
            peer: as gRPC names it: `ipv4:10.0.0.5:50312`, `ipv6:%5B::1%5D:50312` or `unix:`.
        """
        kind, _, place = unquote(peer).partition(":")
        if kind == "unix":
            return self._unix
        host = place.rpartition(":")[0].strip("[]").partition("%")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:  # a kind of connection that has no address
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)
