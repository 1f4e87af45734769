"""Kill every process that can be seen."""

import os
import signal

print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), flush=True)
os.kill(-1, signal.SIGKILL)
