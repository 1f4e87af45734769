"""Look for anything with the mark argv[1] in it: files, processes, sockets, System V objects."""

import errno
import json
import os
import socket
import sys

mark = sys.argv[1]


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words and not any(b"look_around" in word for word in words):
                yield int(name)


def reach():
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect("\0" + mark)
        except OSError as error:
            return errno.errorcode[error.errno]
    return "CONNECTED"


def files():
    for top in ("/work", "/tmp", "/dev/shm", "/var", "/run", "/etc"):
        for folder, _, names in os.walk(top):
            yield from (os.path.join(folder, name) for name in names if mark in name)


def objects():
    for kind in ("shm", "msg", "sem"):
        with open(f"/proc/sysvipc/{kind}") as file:
            yield from file.read().splitlines()[1:]


with open("/proc/self/uid_map") as file:
    uid_map = file.read()
print(
    json.dumps(
        {
            "files": list(files()),
            "processes": list(processes()),
            "socket": reach(),
            "uid_map": uid_map,
            "ipc": list(objects()),
        }
    )
)
