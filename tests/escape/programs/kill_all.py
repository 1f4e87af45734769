"""Kill everything that can be seen; argv[1] are pids of the host, as JSON."""

import errno
import json
import os
import signal
import sys
import time

child = os.fork()
if child == 0:
    time.sleep(60)
seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
answers = []
for pid in json.loads(sys.argv[1]):
    try:
        os.kill(pid, 0)
        answers.append("THERE")
    except OSError as error:
        answers.append(errno.errorcode[error.errno])
print(json.dumps({"seen": seen, "answers": answers}), flush=True)
os.kill(-1, signal.SIGKILL)
ended = os.waitpid(child, 0)[1]
print(json.dumps({"child": os.WTERMSIG(ended)}))
