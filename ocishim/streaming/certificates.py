"""TLS for the streaming server: the operator's certificate, or one made for the time of this process."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ocishim.errors import FailedPrecondition

if TYPE_CHECKING:
    from ocishim.config import StreamingSettings

_VALID: Final = datetime.timedelta(days=365)
_CLOCKS_DIFFER: Final = datetime.timedelta(hours=1)


def context(settings: StreamingSettings) -> ssl.SSLContext | None:
    """The server's side of TLS, None where it is off. Reads files: call it in a thread.

    Raises FailedPrecondition that names the file which cannot be used.
    """
    if not settings.tls:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if settings.cert_file:
        _load(made, settings.cert_file, settings.key_file)
    else:
        # ssl takes certificates from files only; this one is gone as soon as it is read.
        with tempfile.NamedTemporaryFile() as file:
            file.write(self_made(settings.address))
            file.flush()
            _load(made, file.name, file.name)
    return made


def _load(made: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    try:
        made.load_cert_chain(cert_file, key_file or None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        names = cert_file if not key_file or key_file == cert_file else f"{cert_file}, {key_file}"
        raise FailedPrecondition(f"streaming.cert_file, key_file: {names} cannot be used: {reason}") from error


def self_made(address: str) -> bytes:
    """A new key and a certificate of it for the address and this host, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ocishim streaming")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.DNSName(os.uname().nodename)]
    addresses = {ipaddress.ip_address(each) for each in ("127.0.0.1", "::1", address)}
    alternatives += [x509.IPAddress(each) for each in sorted(addresses, key=str)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
