"""The lines of the README that lead from the demo to events in rsyslog, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = 5

SECONDS = 150

# A network, logs, state and sockets of their own: this host's are not touched.
ALONE = """
set -eu
ip link set lo up
for folder in /run /var/lib /var/log; do mount -t tmpfs tmpfs $folder; done
cd "$0"
end() {
  kill -TERM $! && wait $!
  kill -TERM "$(cat /run/stockade-rsyslog.pid)"
}
trap end EXIT
"""


def test_five_lines_lead_from_the_demo_to_events_in_rsyslog() -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"### From the demo to a SIEM\n.*?```sh\n(.*?)```", text, re.S)
    assert len(block.splitlines()) == LINES
    done = subprocess.run(
        ["unshare", "--net", "--mount", "timeout", f"{SECONDS}", "bash", "-c", ALONE + block,
         str(ROOT)],
        check=False, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    event = json.loads(done.stdout.splitlines()[-1])
    assert event["metadata"]["version"] == "1.8.0"
    assert event["unmapped"]["stockade"]["kind"] == "export"
