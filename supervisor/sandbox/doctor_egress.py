"""What the doctor tries of egress by name: a lie at every step, so that nothing leaves the host.

The name that the trial's profile allows is asked for, connected to, and spoken to in something that
is not TLS. The broker refuses that before it resolves the name or dials; that it says so shows that
DNS, the kernel's redirection, and the broker work together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from supervisor.call.events import Denied, Flow, Verdict
from supervisor.profile.model import EgressRule, PortRange

NAME, OTHER = "doctor.example.com", "other.example.com"
RULES = (EgressRule(host=NAME, ports=(PortRange(low=443, high=443),), why="The doctor's trial."),)
EGRESS_BYTES = 1 << 16
SETS = ("@default", "@network-io")

PROGRAM = f"""
import json, os, socket
seen = {{}}
def attempt(name, what):
    try:
        seen[name] = ["done", str(what())]
    except socket.gaierror as error:
        seen[name] = ["unknown", str(error.errno)]
    except OSError as error:
        seen[name] = ["refused", os.strerror(error.errno)]
def lie():
    with socket.create_connection(("{NAME}", 443), 5) as sock:
        peer = sock.getpeername()[:2]
        sock.sendall(b"this is not TLS" * 8)
        sock.settimeout(5)
        try:
            while sock.recv(100):
                pass
        except ConnectionResetError:
            pass
        return peer
attempt("allowed", lambda: socket.getaddrinfo("{NAME}", 443, socket.AF_INET)[0][4])
attempt("other", lambda: socket.getaddrinfo("{OTHER}", 443))
attempt("port", lambda: socket.create_connection(("{NAME}", 22), 5))
attempt("address", lambda: socket.create_connection(("203.0.113.9", 443), 5))
attempt("lie", lie)
print(json.dumps(seen))
"""


def faults(
    seen: Mapping[str, Sequence[Any]], denied: Iterable[Denied], flows: Iterable[Flow]
) -> list[str]:
    """Say what was not as it has to be."""
    denials = [(one.name, one.detail) for one in denied]
    expected = {
        "the allowed name has no address of ours": seen["allowed"][0] == "done",
        "another name has one": seen["other"][0] == "unknown",
        "another port can be connected to": seen["port"][0] == "refused",
        "an address can be connected to": seen["address"][0] == "refused",
        "the broker does not answer": seen["lie"][0] == "done",
        "the other name is not told": any(n == "dns" and OTHER in d for n, d in denials),
        "the other port is not told": any(n == "connect" and NAME in d for n, d in denials),
        "the address is not told": any(n == "connect" and "203.0.113.9" in d for n, d in denials),
        "what is not TLS is not told": any(n == "tls" and NAME in d for n, d in denials),
        "the connection is not on record": any(
            flow.name == NAME and flow.verdict is Verdict.DENIED and not flow.sent for flow in flows
        ),
    }
    return [fault for fault, held in expected.items() if not held]
