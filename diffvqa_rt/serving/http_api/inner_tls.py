"""Certificates by which the HTTP API asks a server that speaks TLS: it trusts that server's own, and has one for it.

The server may ask clients for certificates of an authority whose key is not here. So the API makes one for each run,
which the server takes beside that authority's. Its key is readable by this user alone, and goes with the run.
"""

import dataclasses
import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from diffvqa_rt.serving.client import ClientTls
from diffvqa_rt.serving.settings import ServerTls
from diffvqa_rt.serving.tritonserver import ServerError

_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "diffvqa HTTP API")])
_VALID_DAYS = 3650


def let_in(tls: ServerTls, folder: Path) -> tuple[ServerTls, ClientTls]:
    """The certificates that a server is told in place of `tls`, and those by which the API on its machine asks it.

    Files are written into `folder`. Raises ServerError where the server's certificate is none.
    """
    assert tls.cert is not None  # which ServerTls has checked
    name = _name_in(tls.cert)
    if tls.client_ca is None:
        return tls, ClientTls(ca=tls.cert, server_name=name)
    cert, key, authorities = (folder / name for name in ("api.pem", "api.key", "client_ca.pem"))
    _make_certificate(cert, key)
    authorities.write_bytes(tls.client_ca.read_bytes() + b"\n" + cert.read_bytes())
    ours = ClientTls(ca=tls.cert, cert=cert, key=key, server_name=name)
    return dataclasses.replace(tls, client_ca=authorities), ours


def _name_in(path: Path) -> str:
    """A name that a certificate is for: that the API asks the right server follows from the certificate itself."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ServerError(f"{path} is no certificate ({error}); expected a file in PEM format") from error
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if not common:
            raise ServerError(f"{path} is a certificate for no name; expected one with a host's name") from None
        return str(common[0].value)
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not found:
        raise ServerError(f"{path} is a certificate for no host; expected one with a host's name")
    return found[0].replace("*", "any", 1)


def _make_certificate(cert: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
