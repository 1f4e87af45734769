"""A real rsyslog of a test's own.

With `Direct` queues, a message is in the file (in the kernel's hands, so that a kill cannot take it
back) before the next one is read, and before RELP answers. With rsyslog's default queues it is in
memory then, and `kill -9` loses what was acknowledged: up to `queue.size` messages.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.receiver import Receiver, free_port

PROGRAM = Path("/usr/sbin/rsyslogd")

_COMMON = """
global(
  workDirectory="{folder}" maxMessageSize="64k" {global_tls}
)
main_queue(queue.type="{queue}")
template(name="line" type="string" string="%structured-data% %msg%\\n")
{input}
action(
  type="omfile" file="{lines}" template="line" fileCreateMode="0600"
  asyncWriting="off" flushOnTXEnd="on" queue.type="Direct"
)
"""

# Of its own accord imrelp takes nobody over TLS who has no certificate, once it has one itself.
_TLS = """
module(
  load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{mode}"
  {permitted}
)
input(type="imtcp" address="127.0.0.1" port="{port}")
"""

_PLAIN = """
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="{port}")
"""

_RELP = """
module(load="imrelp")
input(type="imrelp" address="127.0.0.1" port="{port}" maxDataSize="64k" {tls})
"""


def rsyslog(
    folder: Path,
    kind: str,
    *,
    ca: Path | None = None,
    chain: Path | None = None,
    client: str = "",
    queue: str = "Direct",
    port: int = 0,
) -> Receiver:
    """Give an rsyslog that takes `kind`: tls, tcp, relp or relp-tls. `chain` has its certificate
    and key; with `client`, only who shows a certificate with that name may send."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    global_tls = ""
    if kind == "tls":
        global_tls = (
            f'defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{ca}" '
            f'defaultNetstreamDriverCertFile="{chain}" defaultNetstreamDriverKeyFile="{chain}"'
        )
        taken = _TLS.format(
            port=port,
            mode="x509/name" if client else "anon",
            permitted=f'permittedPeer=["{client}"]' if client else "",
        )
    elif kind == "tcp":
        taken = _PLAIN.format(port=port)
    else:
        taken = _RELP.format(port=port, tls=_relp_tls(ca, chain, client, kind == "relp-tls"))
    lines = folder / "received"
    config = folder / "rsyslog.conf"
    config.write_text(
        _COMMON.format(folder=folder, global_tls=global_tls, queue=queue, input=taken, lines=lines)
    )
    arguments: list[str | Path] = [PROGRAM, "-n", "-f", config, "-i", folder / "rsyslogd.pid"]
    return Receiver(arguments, port, lines)


def _relp_tls(ca: Path | None, chain: Path | None, client: str, tls: bool) -> str:
    if not tls:
        return ""
    peer = f'tls.authMode="name" tls.permittedPeer=["{client}"]' if client else ""
    return f'tls="on" tls.caCert="{ca}" tls.myCert="{chain}" tls.myPrivKey="{chain}" {peer}'
