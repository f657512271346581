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
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

import authority
import images
import mattebox
from authority import Authority, Pair
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from mattebox_server.security.certificates import check_pair
from mattebox_server.security.secret_files import TlsFiles
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


# Kinds of keys as certificates name them in DER: an object identifier and its parameters.
RSA, RSA_PSS, UNKNOWN = (bytes.fromhex("2a864886f70d0101" + last) for last in ("010500", "0a3000", "7f0500"))
VERSION_3, VERSION_6 = (bytes.fromhex("a0030201" + version) for version in ("02", "05"))
BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_certificates_that_are_something_else_are_named(start: Start) -> None:
    text, good = start.folder / "text.pem", start.ca.issue().certificate
    for setting in ("tls_certificate", "tls_client_ca"):
        start = Start(start.folder)
        setattr(start, setting.removeprefix("tls_"), text)
        for content in (b"", b"\xff\0 no certificate", start.key.read_bytes()):
            text.write_bytes(content)
            assert start.refusal() == f"{setting}: {text} holds no certificate in PEM"
        unknown = ssl.PEM_cert_to_DER_cert(good.decode()).replace(VERSION_3, VERSION_6, 1)
        damaged = ssl.DER_cert_to_PEM_cert(unknown).encode(), good[:200], good + good[:200]
        for content in (BROKEN, b"\xff\0 " + BROKEN, good + BROKEN, BROKEN + good, *damaged):
            text.write_bytes(content)
            assert start.refusal() == f"{setting}: {text} holds a broken certificate"


def test_a_chain_with_notes_and_its_key_in_one_file_is_taken(start: Start) -> None:
    """As Let's Encrypt, haproxy and people with an editor make them."""
    note = "# ключ\n".encode() + b"\xff\0\r\n"
    pair = start.ca.issue()
    chain = note + pair.certificate.replace(b"\n", b"\r\n") + note + start.ca.certificate
    authority.replace(start.certificate, pair.key + chain)
    authority.replace(start.key, chain + note + pair.key)
    start.certificates().credentials()


def test_keys_that_are_something_else_are_named(start: Start) -> None:
    pair = start.ca.issue()
    for content in (b"", b"no key", pair.certificate, pair.key[:100], pair.key.replace(b"M", b"*")):
        authority.replace(start.key, content)
        assert start.refusal() == f"tls_key: {start.key} holds no private key in PEM, or a broken one"
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        secret = ec.generate_private_key(ec.SECP256R1())
        hidden = secret.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"a passphrase"))
        authority.replace(start.key, hidden)
        assert start.refusal() == f"tls_key: {start.key} is encrypted: store the key without a passphrase"
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        authority.replace(start.key, authority.key_pem(key))
        assert start.refusal() == f"tls_key: {start.key} is not the key of tls_certificate {start.certificate}"


def test_keys_that_grpc_takes(start: Start) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        start.ca.issue(key=key).write(start.folder)
        start.certificates().credentials()
    for key in (ec.generate_private_key(ec.SECP521R1()), ec.generate_private_key(ec.BrainpoolP256R1())):
        start.ca.issue(key=key).write(start.folder)
        assert "must have a key of RSA, or of ECDSA with P-256 or P-384" in start.refusal()
    pair = start.ca.issue(key=rsa.generate_private_key(65537, 2048))
    pair.write(start.folder)
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.decode())
    for kind in (RSA_PSS, UNKNOWN):
        authority.replace(start.certificate, ssl.DER_cert_to_PEM_cert(der.replace(RSA, kind)).encode())
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


@pytest.mark.parametrize("year", [1950, 2049, 2050, 9999])
def test_the_end_of_a_certificate_is_logged_whatever_its_form(start: Start, year: int) -> None:
    """X.509 writes years from 2050 on in another form than those before."""
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    start.ca.issue(end=end).write(start.folder)
    with structlog.testing.capture_logs() as lines:
        start.certificates()
    (line,) = lines
    assert (line["event"], line["ends"]) == ("certificate", end.isoformat())
    assert line["log_level"] == ("warning" if year == 1950 else "info")


DAMAGED, FILES = Authority().issue(), TlsFiles(Path("any.pem"), Path("any-key.pem"))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_certificate_is_an_error_that_names_the_file(data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(DAMAGED.certificate.decode()))
    at = data.draw(st.integers(0, len(der) - 1))
    with pytest.raises(StartupError, match=r"any\.pem"):
        check_pair(FILES, ssl.DER_cert_to_PEM_cert(bytes(der[:at])).encode(), DAMAGED.key)
    der[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StartupError):  # a changed signature or name is no damage that this check looks for
        check_pair(FILES, ssl.DER_cert_to_PEM_cert(bytes(der)).encode(), DAMAGED.key)
