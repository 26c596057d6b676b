"""Stands in for cert-manager: an authority that issues what a Certificate asks for."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEY_USAGES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}


def builder(name, public_key, issuer):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM).decode()


class Authority:
    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        own = builder("atoll", self.key.public_key(), "atoll")
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = own.sign(self.key, hashes.SHA256())

    def issue(self, spec):
        """The files of the Secret of a Certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in spec.get("uris", [])]
        names += [x509.DNSName(name) for name in spec.get("dnsNames", [])]
        usages = [KEY_USAGES[usage] for usage in spec["usages"] if usage in KEY_USAGES]
        made = builder(spec.get("commonName"), key.public_key(), "atoll")
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=not spec.get("commonName"))
        made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "tls.crt": pem(made.sign(self.key, hashes.SHA256())),
            "tls.key": private.decode(),
            "ca.crt": pem(self.certificate),
        }
