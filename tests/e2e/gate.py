# SPDX-License-Identifier: Apache-2.0
"""What stands before a broker that is open to itself alone: TLS by a certificate of a CA of its own, and SASL PLAIN.

Tansu does neither in a way that a client could meet, so the handshakes are made here and the rest is passed on.
"""

import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36


class Gate:
    """Listens on ``port`` until it is closed; lets in who speaks TLS and knows the password."""

    def __init__(self, folder: Path, broker: tuple[str, int], user: str, password: str) -> None:
        self.authority, certificate, key = certificates(folder)
        self._broker, self._user, self._password = broker, user, password
        self.let_in = 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections; those that are open end with the broker."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        # Whoever is refused, and whoever goes, ends the connection.
        with (
            plain,
            suppress(OSError, EOFError),
            self._tls.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(self._broker) as broker,
        ):
            if self._authenticate(client, broker):
                self.let_in += 1
                threading.Thread(target=_pass_on, args=(broker, client), daemon=True).start()
                _pass_on(client, broker)

    def _authenticate(self, client: socket.socket, broker: socket.socket) -> bool:
        while True:
            request = _message(client)
            api, version, _correlation = struct.unpack_from(">hhi", request)
            if api == API_VERSIONS:
                broker.sendall(struct.pack(">i", len(request)) + request)
                reply = _message(broker)
            elif api == SASL_HANDSHAKE:
                reply = request[4:8] + struct.pack(">hih", 0, 1, 5) + b"PLAIN"
            elif api == SASL_AUTHENTICATE:
                right = f"\0{self._user}\0{self._password}".encode() in request
                code = 0 if right else 58  # SASL_AUTHENTICATION_FAILED
                if version >= 2:
                    reply = request[4:8] + b"\0" + struct.pack(">hBBq", code, 0, 1, 0) + b"\0"
                else:
                    reply = request[4:8] + struct.pack(">hhi", code, -1, 0) + (bytes(8) if version else b"")
            else:
                return False
            client.sendall(struct.pack(">i", len(reply)) + reply)
            if api == SASL_AUTHENTICATE:
                if not right:
                    client.recv(1)  # the end of the connection, once the client has read why
                return right


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Of a CA, of 127.0.0.1 by that CA, and the latter's key, as PEM files."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    whole = [
        _certificate("millrace tests", authority, authority).add_extension(x509.BasicConstraints(True, None), True),
        _certificate("broker", server, authority).add_extension(here, False),
    ]
    paths = folder / "ca.pem", folder / "broker.pem", folder / "broker.key"
    for path, made in zip(paths, whole, strict=False):
        path.write_bytes(made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[2].write_bytes(server.private_bytes(*form))
    return paths


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("millrace tests"))
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - day).not_valid_after(now + day)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False)
    )  # fmt: skip


def _message(connection: socket.socket) -> bytes:
    return _exactly(connection, struct.unpack(">i", _exactly(connection, 4))[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            raise EOFError
        read += more
    return read


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
