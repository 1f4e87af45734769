"""A real syslog-ng of a test's own.

Debian's package cannot be installed beside rsyslog, so .ci/setup unpacks it into a folder.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.receiver import Receiver, free_port

UNPACKED = Path("/usr/local/lib/stockade-tests/syslog-ng")
LIBRARIES = UNPACKED / "usr/lib/syslog-ng"

_CONFIG = """
@version: 3.35
options {{ use-dns(no); keep-hostname(yes); log-msg-size(65536); stats-freq(0); }};
source taken {{
  syslog(
    ip(127.0.0.1) port({port}) transport("tls") log-iw-size(1000)
    tls(key-file("{chain}") cert-file("{chain}") ca-file("{ca}") peer-verify({verify}))
  );
}};
destination lines {{
  file("{lines}" template("${{.SDATA.stockade@32473.uid}} ${{MSGHDR}}${{MSG}}\\n")
    template-escape(no) flush-lines(1) perm(0600));
}};
log {{ source(taken); destination(lines); flags(flow-control); }};
"""


def syslog_ng(folder: Path, *, ca: Path, chain: Path, client: bool = False) -> Receiver:
    """Give a syslog-ng that takes RFC 5424 over TLS; with `client`, from who has a certificate."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    lines = folder / "received"
    config = folder / "syslog-ng.conf"
    config.write_text(
        _CONFIG.format(
            port=port, chain=chain, ca=ca, lines=lines,
            verify="required-trusted" if client else "optional-untrusted",
        )
    )  # fmt: skip
    modules = next(LIBRARIES.glob("[0-9]*"))
    arguments: list[str | Path] = [
        UNPACKED / "usr/sbin/syslog-ng", "--foreground", "--no-caps", "--stderr",
        "--cfgfile", config, "--module-path", modules,
        "--persist-file", folder / "persist", "--pidfile", folder / "pid",
        "--control", folder / "control",
    ]  # fmt: skip
    return Receiver(arguments, port, lines, {"LD_LIBRARY_PATH": str(LIBRARIES)})
