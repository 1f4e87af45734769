"""Tell what a program sees of the world around it, as one JSON object."""

import errno
import json
import os

# Before anything is opened by the import system or by us.
descriptors = {}
for name in os.listdir("/proc/self/fd"):
    try:
        descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the folder itself, while it was listed
        continue


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "THERE"


print(
    json.dumps(
        {
            "environment": dict(os.environ),
            "descriptors": descriptors,
            "status": dict(
                (part.strip() for part in line.split(":", 1))
                for line in read("/proc/self/status").splitlines()
            ),
            "hostname": os.uname().nodename,
            "etc": {name: read(f"/etc/{name}") for name in os.listdir("/etc")},
            "interfaces": [
                line.split(":")[0].strip() for line in read("/proc/net/dev").splitlines()[2:]
            ],
            "routes": len(read("/proc/net/route").splitlines()[1:]),
            "terminal": terminal(),
            "session leader": os.getsid(0) == os.getpid(),
        }
    )
)
