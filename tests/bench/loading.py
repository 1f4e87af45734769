"""Load all probes once, in a process of its own; print the milliseconds and what stays, in MB.

Run by `make bench`, since what a process holds after its first fence it holds for good.
"""

from __future__ import annotations

import json
import os
import sys
import time

from supervisor.bpf.fence import Fence
from tests.bench.measures import resident_mb
from tests.unit.bpf.real import ground


def main() -> int:
    """Measure."""
    with ground() as here:
        before = resident_mb(os.getpid())
        fence = Fence(here.places)
        began = time.perf_counter()
        fence.open()
        took_s = time.perf_counter() - began
        after = resident_mb(os.getpid())
        fence.close()
    sys.stdout.write(json.dumps({"ms": took_s * 1e3, "mb": after - before}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
