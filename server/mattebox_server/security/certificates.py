"""Checks of the server's certificate, its key and the authorities of its callers, before gRPC gets them.

gRPC itself reports a file that it can't use only in a line of its own log, and keeps the old one or serves nobody.
"""

import contextlib
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import PublicKeyAlgorithmOID

from mattebox_server.errors import StartupError
from mattebox_server.security.secret_files import TlsFiles

_BEGIN = b"-----BEGIN CERTIFICATE-----"


def check_pair(files: TlsFiles, certificate: bytes, key: bytes) -> datetime:
    """Checks that gRPC can use the server's certificate with the key, and returns when the certificate ends.

    Args:
        files: the paths, for the error texts.
        certificate: the certificate file's content.
        key: the key file's content.

    Raises:
        StartupError: a file is broken, gRPC can't use that kind of key, or the key is another certificate's.
    """
    own = _certificates("tls_certificate", str(files.certificate), certificate)[0]
    if _private_key(files, key) != _public_key(files, own):
        raise StartupError(f"tls_key: {files.key} is not the key of tls_certificate {files.certificate}")
    return own.not_valid_after_utc


def check_authorities(files: TlsFiles, client_ca: bytes) -> None:
    """Checks that the content of the file of authorities holds certificates. Raises StartupError if it doesn't."""
    _certificates("tls_client_ca", str(files.client_ca), client_ca)


def _certificates(setting: str, path: str, content: bytes) -> list[x509.Certificate]:
    """All certificates of a file, of which there is at least one."""
    if _BEGIN not in content:
        raise StartupError(f"{setting}: {path} holds no certificate in PEM")
    try:
        found = x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise StartupError(f"{setting}: {path} holds a broken certificate") from error
    if len(found) < content.count(_BEGIN):  # the library passes over a last certificate that is cut off
        raise StartupError(f"{setting}: {path} holds a broken certificate")
    return found


def _public_key(files: TlsFiles, certificate: x509.Certificate) -> CertificatePublicKeyTypes:
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        key = certificate.public_key()
        # The library reads keys that are for RSA-PSS alone as RSA, but gRPC doesn't take them.
        is_rsa = certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
        if is_rsa or (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1 | SECP384R1)):
            return key
    raise StartupError(f"tls_certificate: {files.certificate} must have a key of RSA, or of ECDSA with P-256 or P-384")


def _private_key(files: TlsFiles, content: bytes) -> object:
    """The public half of a private key, to be compared with the certificate's."""
    try:
        return load_pem_private_key(content, password=None).public_key()
    except TypeError as error:
        raise StartupError(f"tls_key: {files.key} is encrypted: store the key without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartupError(f"tls_key: {files.key} holds no private key in PEM, or a broken one") from error
