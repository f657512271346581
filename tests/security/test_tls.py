"""TLS and mutual TLS: who gets in, who doesn't, and new certificates without a restart. With plain gRPC channels."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import authority
import images
import mattebox
from authority import Authority, Pair
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from mattebox_server.security.certificates import TlsFiles, check_certificate
from mattebox_server.security.tls import Certificates
from shells import open_shell

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
TOKEN = "a-token-of-some-length"
REFUSED = "the changed certificate is refused, the old one stays"


@dataclass(frozen=True)
class Place:
    """A server with TLS, and what it reads."""

    server: LocalServer
    folder: Path
    authority: Authority

    def mark(self) -> int:
        """How much the log has now."""
        return len(self.server.events)

    def said(self, event: str, since: int = 0) -> dict[str, Any]:
        """The last such line of the log; waits for the first."""
        deadline_s = time.monotonic() + 30
        while not (found := [line for line in self.server.events[since:] if line["event"] == event]):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return found[-1]


def channel(server: LocalServer, root: bytes, own: Pair | None = None) -> grpc.Channel:
    """A new connection, whatever others there are."""
    pair = (None, None) if own is None else (own.key, own.certificate)
    credentials = grpc.ssl_channel_credentials(root, *pair)
    return grpc.secure_channel(server.address, credentials, [("grpc.use_local_subchannel_pool", 1)])


def list_models(channel: grpc.Channel) -> grpc.StatusCode:
    """The status of a call."""
    try:
        pb_grpc.BackgroundRemovalServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=20)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        return error.code()
    return OK


def call(server: LocalServer, root: bytes, own: Pair | None = None) -> grpc.StatusCode:
    """The status of a call over a connection of its own."""
    with channel(server, root, own) as once:
        return list_models(once)


@pytest.fixture(scope="module")
def place(colour_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    folder, ca = tmp_path_factory.mktemp("tls"), Authority()
    certificate, key = ca.issue().write(folder)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with LocalServer([colour_model], ["--provider", "cpu", *flags]) as server:
        yield Place(server, folder, ca)


@pytest.fixture(scope="module")
def mutual(colour_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    """Callers must have a certificate of the server's own authority."""
    folder, ca = tmp_path_factory.mktemp("mutual"), Authority()
    certificate, key = ca.issue().write(folder)
    authority.replace(folder / "callers.pem", ca.certificate)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", f"{folder}/callers.pem"]
    with LocalServer([colour_model], ["--provider", "cpu", *flags]) as server:
        yield Place(server, folder, ca)


def test_callers_that_trust_the_authority_are_served_and_others_refuse(place: Place) -> None:
    assert call(place.server, place.authority.certificate) is OK
    assert call(place.server, Authority().certificate) is UNAVAILABLE
    with grpc.insecure_channel(place.server.address) as plain:
        assert list_models(plain) is UNAVAILABLE
    assert call(place.server, place.authority.certificate) is OK


def test_a_new_certificate_is_taken_up_while_callers_are_connected(place: Place) -> None:
    other, mark = Authority(), place.mark()
    with channel(place.server, place.authority.certificate) as connected:
        assert list_models(connected) is OK
        other.issue().write(place.folder)
        assert call(place.server, other.certificate) is OK
        assert call(place.server, place.authority.certificate) is UNAVAILABLE
        assert list_models(connected) is OK
    assert place.said("certificate reloaded", mark)["level"] == "info"
    place.authority.issue().write(place.folder)
    assert call(place.server, place.authority.certificate) is OK


def test_a_broken_change_is_refused_once_and_loudly(place: Place) -> None:
    root, key = place.authority.certificate, place.folder / "server-key.pem"
    kept, mark = key.read_bytes(), place.mark()
    authority.replace(key, place.authority.issue().key)
    assert [call(place.server, root) for _ in range(3)] == [OK] * 3
    line = place.said(REFUSED, mark)
    assert line["level"] == "error"
    assert line["reason"].startswith(f"tls_key: {key} is not the key of tls_certificate")
    assert [line["event"] for line in place.server.events[mark:]].count(REFUSED) == 1
    mark = place.mark()
    key.unlink()
    assert call(place.server, root) is OK
    assert "No such file" in place.said(REFUSED, mark)["reason"]
    authority.replace(key, kept)
    assert call(place.server, root) is OK


def test_an_expired_certificate_is_refused_by_callers_and_warned_of(place: Place) -> None:
    for days, status, level in ((-1, UNAVAILABLE, "warning"), (13.5, OK, "warning"), (90, OK, "info")):
        mark = place.mark()
        place.authority.issue(days=days).write(place.folder)
        assert call(place.server, place.authority.certificate) is status
        line = place.said("certificate", mark)
        assert (line["level"], line["days_left"]) == (level, math.floor(days - 0.001))


def test_mutual_tls_asks_for_a_valid_certificate_of_the_right_authority(mutual: Place) -> None:
    root = mutual.authority.certificate
    assert call(mutual.server, root, mutual.authority.issue("caller")) is OK
    assert call(mutual.server, root) is UNAVAILABLE
    assert call(mutual.server, root, mutual.authority.issue("caller", days=-1)) is UNAVAILABLE
    assert call(mutual.server, root, Authority().issue("caller")) is UNAVAILABLE
    assert call(mutual.server, root, Authority("Mattebox tests").issue("caller")) is UNAVAILABLE
    assert mutual.said("listening")["mutual_tls"] is True


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_clients_with_all_of_it(colour_model: Path, tmp_path: Path, kind: str) -> None:
    """Mutual TLS and a token, as an operator would set them and a caller use them."""
    ca = Authority()
    certificate, key = ca.issue().write(tmp_path)
    own = ca.issue("caller").write(tmp_path, "caller")
    authority.replace(tmp_path / "ca.pem", ca.certificate)
    authority.replace(tmp_path / "tokens", f"shop:{TOKEN}".encode())
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", f"{tmp_path}/ca.pem"]
    tls = mattebox.Tls(tmp_path / "ca.pem", *own)
    with LocalServer([colour_model], ["--provider", "cpu", *flags, "--token-file", f"{tmp_path}/tokens"]) as server:
        client = open_shell(kind, server.address, tls=tls, token=TOKEN)
        assert client.remove_background(images.encode(images.scene())).width == 96
        client.close()
        stranger = open_shell(kind, server.address, tls=tls, token=TOKEN + "x")
        assert stranger.ready()
        with pytest.raises(mattebox.Unauthenticated):
            stranger.models()
        stranger.close()
        unknown = open_shell(kind, server.address, tls=mattebox.Tls(tmp_path / "ca.pem"), token=TOKEN, retries=0)
        assert not unknown.ready()
        with pytest.raises(mattebox.Unavailable):
            unknown.models()
        unknown.close()


def test_new_authorities_of_callers_are_taken_up(mutual: Place) -> None:
    root, other, mark = mutual.authority.certificate, Authority("others"), mutual.mark()
    authority.replace(mutual.folder / "callers.pem", root + other.certificate)
    assert call(mutual.server, root, other.issue("caller")) is OK
    authority.replace(mutual.folder / "callers.pem", b"nothing")
    assert call(mutual.server, root, other.issue("caller")) is OK
    assert "tls_client_ca" in mutual.said(REFUSED, mark)["reason"]
    authority.replace(mutual.folder / "callers.pem", root)
    assert call(mutual.server, root, other.issue("caller")) is UNAVAILABLE
    assert call(mutual.server, root, mutual.authority.issue("caller")) is OK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused(place: Place) -> None:
    context = ssl.create_default_context(cadata=place.authority.certificate.decode())
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    assert shake_hands(place, context) in ("TLSv1.2", "TLSv1.3")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|EOF"):  # the server, not this side, won't
        shake_hands(place, context)


def shake_hands(place: Place, context: ssl.SSLContext) -> str | None:
    """The version that both sides agree on."""
    host, _, port = place.server.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as bare,
        context.wrap_socket(bare, server_hostname=host) as tls,
    ):
        return tls.version()


class Start:
    """The files of a server that is about to start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ca = folder, Authority()
        self.certificate, self.key = self.ca.issue().write(folder)
        self.client_ca: Path | None = None

    def certificates(self) -> Certificates:
        return Certificates(TlsFiles(self.certificate, self.key, self.client_ca))

    def refusal(self) -> str:
        with pytest.raises(StartupError) as caught:
            self.certificates()
        return str(caught.value)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def test_files_that_cannot_be_read_are_named(start: Start) -> None:
    start.client_ca = start.folder / "nowhere.pem"
    assert start.refusal() == f"tls_client_ca: can't read {start.client_ca}: No such file or directory"
    start.client_ca, start.key = None, start.folder
    assert start.refusal() == f"tls_key: can't read {start.key}: Is a directory"
    start.client_ca, start.certificate = None, start.folder / "nowhere.pem"
    assert start.refusal().startswith("tls_certificate: can't read")


def test_files_that_are_something_else_are_named(start: Start) -> None:
    key, text = start.key, start.folder / "text.pem"
    broken = b"\xff\0 -----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    text.write_bytes(broken)
    start.client_ca = text
    assert start.refusal().startswith(f"tls_client_ca: {text} holds no certificate in PEM")
    text.write_bytes(b"")
    assert start.refusal().startswith(f"tls_client_ca: {text} holds no certificate in PEM")
    start.client_ca, start.key = None, start.certificate
    assert start.refusal().startswith(f"tls_key: {start.certificate} is no private key")
    start.key = key
    authority.replace(key, authority.key_pem(ec.generate_private_key(ec.SECP256R1()), b"a passphrase"))
    assert "without a passphrase" in start.refusal()
    text.write_bytes(broken)
    start.certificate = text
    assert start.refusal() == f"tls_certificate: {text} holds a broken certificate"
    start.certificate = key
    assert start.refusal() == f"tls_certificate: {key} holds no certificate in PEM"


def test_keys_that_grpc_takes(start: Start) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        start.ca.issue(key=key).write(start.folder)
        start.certificates().credentials()
    for key in (ec.generate_private_key(ec.SECP521R1()), ec.generate_private_key(ec.BrainpoolP256R1())):
        start.ca.issue(key=key).write(start.folder)
        assert "must have a key of RSA, or of ECDSA with P-256 or P-384" in start.refusal()


def test_a_key_that_others_can_read_is_warned_of(start: Start) -> None:
    with structlog.testing.capture_logs() as quiet:
        start.certificates()
    start.key.chmod(0o640)
    with structlog.testing.capture_logs() as loud:
        start.certificates()
    assert [line["event"] for line in quiet] == ["certificate"]
    assert loud[0]["log_level"] == "warning"
    assert loud[0]["setting"] == "tls_key"


CERTIFICATES = Authority()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.datetimes(datetime(1950, 2, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_the_end_of_a_certificate_is_read_whatever_its_form(end: datetime) -> None:
    whole = end.replace(microsecond=0)
    assert check_certificate(Path("any.pem"), b"a note\n" + CERTIFICATES.until(whole)) == whole


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_certificate_is_an_error_that_names_the_file(data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(CERTIFICATES.certificate.decode()))
    at = data.draw(st.integers(0, len(der) - 1))
    with pytest.raises(StartupError, match=r"any\.pem"):
        check_certificate(Path("any.pem"), ssl.DER_cert_to_PEM_cert(bytes(der[:at])).encode())
    der[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StartupError):  # or it is fine: not every byte is looked at
        check_certificate(Path("any.pem"), ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
