"""A real broker's names and gates: asked of it, resolved by it, held to what was asked for.

It is confined while it does so: whatever it would load or open on first use fails here.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from supervisor.call.events import Denied, Flow, Verdict
from supervisor.egress.control import Authority, NameTaken, Secret
from supervisor.egress.terminate import make_authority
from supervisor.profile.model import Inspect
from tests.support.brokers import FAR, WAIT_S, Rig, inside, rig, rule

NAME = "api.example.com"
SECRET = Secret(
    name="github", header="Authorization", host=NAME, value="s3cret",
    placeholder="stockade-secret-github-00112233445566778899aabbccddeeff",
)  # fmt: skip


class Upstream:
    """A resolver over there: every name is at FAR, or where `at` says."""

    def __init__(self, here: Rig) -> None:
        self.asked: list[str] = []
        self.at: dict[str, str] = {}

        def make() -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind((FAR, 53))
            return one

        self._socket = inside(here.far, make)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            question = query.question[0]
            name = question.name.to_text(omit_final_dot=True)
            self.asked.append(name)
            reply = dns.message.make_response(query)
            if question.rdtype == dns.rdatatype.A:
                place = self.at.get(name, FAR)
                reply.answer.append(dns.rrset.from_text(question.name, 5, "IN", "A", place))
            self._socket.sendto(reply.to_wire(), sender)

    def close(self, here: Rig) -> None:
        def stop() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"", (FAR, 53))

        inside(here.far, stop)
        self._thread.join()
        self._socket.close()


@contextmanager
def upstream(here: Rig) -> Iterator[Upstream]:
    one = Upstream(here)
    try:
        yield one
    finally:
        one.close(here)


def ask(here: Rig, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    """Have the program ask for a name, as libc would."""
    query = dns.message.make_query(name, kind)
    data = query.to_wire()
    said: Any
    if tcp:
        framed = len(data).to_bytes(2, "big") + data
        here.client.do(f"d = socket.create_connection(('127.0.0.1', 53), {WAIT_S})")
        here.client.do(f"d.sendall(bytes.fromhex({framed.hex()!r}))")
        said = here.client.do("d.recv(4096).hex()")[4:]
    else:
        here.client.do("d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        here.client.do(f"d.settimeout({WAIT_S})", "d.connect(('127.0.0.1', 53))")
        here.client.do(f"d.send(bytes.fromhex({data.hex()!r}))")
        said = here.client.do("d.recv(4096).hex()")
    return dns.message.from_wire(bytes.fromhex(said))


def address(here: Rig, name: str) -> str:
    return str(ask(here, name).answer[0][0])


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_name_is_asked_for_and_reached(tcp: bool) -> None:
    rules = (rule(NAME, 9000), rule("*.wild.example.com", 9000))
    with rig(*rules) as here, here.listen() as server, upstream(here) as resolver:
        answer = ask(here, NAME, tcp=tcp)
        place = str(answer.answer[0][0])
        assert place.startswith("198.18.")
        assert not resolver.asked
        far = here.connected(server, host=place)
        far.sendall(b"here")
        assert here.client.do("s.recv(10).decode()") == "here"
        assert here.client.do("s.getpeername()[0]") == place
        far.close()
        here.client.do("s.close()")
        (flow,) = here.wait_for(Flow)
        assert (flow.name, flow.address, flow.verdict) == (NAME, FAR, Verdict.CLOSED)
        assert set(resolver.asked) == {NAME}
        far = here.connected(server, host=address(here, "x.wild.example.com"))
        far.close()
        here.client.do("s.close()")
        assert here.wait_for(Flow, 2)[1].name == "x.wild.example.com"
        assert [one.name for one in here.wait_for(NameTaken, 2)] == [NAME, "x.wild.example.com"]


def test_of_other_names_nobody_hears() -> None:
    with rig(rule(NAME, 9000)) as here, upstream(here) as resolver:
        assert ask(here, "data.evil.example.com").rcode() == dns.rcode.NXDOMAIN
        (denied,) = here.wait_for(Denied)
        assert denied.name == "dns"
        assert "data.evil.example.com" in denied.detail
        assert resolver.asked == []


@pytest.mark.parametrize(
    ("place", "kind"), [("10.0.0.1", "private"), ("169.254.169.254", "metadata")]
)
def test_a_name_that_leads_inside_is_not_dialled(place: str, kind: str) -> None:
    with rig(rule(NAME, 9000)) as here, upstream(here) as resolver:
        resolver.at[NAME] = place
        here.told.clear()
        synthetic = address(here, NAME)
        said = here.client.do(f"s = socket.create_connection(('{synthetic}', 9000))")
        assert said is None
        assert here.client.do("s.recv(1)") == "ECONNRESET"
        (denied,) = here.wait_for(Denied)
        told = f"{NAME}:9000 the name leads to {place}: {kind}"
        assert (denied.name, denied.detail) == ("dial", told)


def serving(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_text(authority.key)
        context.load_cert_chain(file.name)
    return context


def tls_client(here: Rig, place: str, authority: Authority, port: int = 9000) -> None:
    here.client.do(
        "import ssl",
        f"context = ssl.create_default_context(cadata={authority.certificate!r})",
        f"raw = socket.create_connection(('{place}', {port}), {WAIT_S})",
    )


WRAP = f"s = context.wrap_socket(raw, server_hostname={NAME!r})"
OUTSIDE = make_authority([NAME, "evil.example.com"])


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_tls_is_held_to_the_name_and_not_opened() -> None:
    with (
        rig(rule(NAME, 9000, inspect=Inspect.TLS)) as here,
        here.listen() as server,
        upstream(here),
    ):
        tls_client(here, address(here, NAME), OUTSIDE)

        def serve() -> None:
            far, _ = server.accept()
            with serving(OUTSIDE).wrap_socket(far, server_side=True) as secure:
                secure.sendall(secure.recv(100).upper())

        thread = in_thread(serve)
        assert here.client.do(WRAP, "s.sendall(b'hello')", "s.recv(100).decode()") == "HELLO"
        here.client.do("s.close()")
        thread.join()
        (flow,) = here.wait_for(Flow)
        assert flow.verdict is Verdict.CLOSED
        tls_client(here, address(here, NAME), OUTSIDE)
        other = "s = context.wrap_socket(raw, server_hostname='evil.example.com')"
        assert "UNRECOGNIZED_NAME" in str(
            here.client.do(f"try: {other}\nexcept ssl.SSLError as e: e.reason\n")
        )
        (denied,) = here.wait_for(Denied)
        assert denied.name == "tls"
        assert "evil.example.com" in denied.detail


REQUEST = f"GET /x HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {SECRET.placeholder}\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def test_a_secret_is_put_into_terminated_tls() -> None:
    within = make_authority([NAME])
    asked = rule(NAME, 443, inspect=Inspect.TERMINATE)
    more = {"secrets": (SECRET,), "authority": within, "authorities": OUTSIDE.certificate}
    with rig(asked, **more) as here, here.listen(443) as server, upstream(here):
        heard: list[bytes] = []

        def serve() -> None:
            far, _ = server.accept()
            with serving(OUTSIDE).wrap_socket(far, server_side=True) as secure:
                heard.append(secure.recv(4096))
                secure.sendall(ANSWER)

        thread = in_thread(serve)
        tls_client(here, address(here, NAME), within, 443)
        here.client.do(WRAP, f"s.sendall({REQUEST.encode()!r})")
        assert here.client.do("s.recv(4096).decode()").endswith("\r\n\r\nhi")
        thread.join()
        assert b"Bearer s3cret\r\n" in heard[0]
        (flow,) = here.wait_for(Flow)
        assert flow.verdict is Verdict.CLOSED
        assert "s3cret" not in str(here.told)
