"""An authority of a test's own, and a certificate that it signed."""

import ipaddress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.clock import utc_now


def write_authority(directory: Path) -> None:
    """Write ca.pem, and tls.pem and tls.key of a certificate it signed for 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc_now() - timedelta(minutes=1))
            .not_valid_after(utc_now() + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coxswain")])
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(certificate(ca_name, ca_key.public_key(), authority=True).public_bytes(pem))
    (directory / "tls.pem").write_bytes(certificate(own_name, key.public_key(), authority=False).public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def issue_certificates(directory: Path) -> dict[str, str]:
    """Write an authority and a certificate for 127.0.0.1, and return the settings of a process that uses them."""
    directory.mkdir(parents=True)
    write_authority(directory)
    files = {"CERTIFICATE": "tls.pem", "KEY": "tls.key", "CA": "ca.pem"}
    return {f"COXSWAIN_TLS_{name}_FILE": str(directory / file) for name, file in files.items()}
