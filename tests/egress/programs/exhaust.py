"""Open connections until there is no more, hold them, and say how far it went. Prints JSON.

    exhaust.py HOST PORT COUNT NAMES

NAMES is how many names below good.example.com are asked for besides.
"""

import collections
import errno
import json
import resource
import socket
import sys
import time

host, port, count, names = sys.argv[1], *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held, ends = [], collections.Counter()
found = collections.Counter()
addresses = set()
FULL = 1024  # Of names below one star; what comes then is no better a moment later.


def resolve(name, port):
    """Ask for a name; again after a moment where there were too many questions at once."""
    for _ in range(100):
        try:
            return socket.getaddrinfo(name, port, socket.AF_INET)[0][4]
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or len(addresses) == FULL:
                raise
            time.sleep(0.1)
    raise TimeoutError(name)


for number in range(names):
    try:
        address = resolve(f"n{number}.good.example.com", 443)[0]
        addresses.add(address)
        found["resolved"] += 1
    except socket.gaierror as error:
        found[str(error.errno)] += 1
time.sleep(1)
place = resolve(host, port)
for _ in range(count):
    try:
        sock = socket.create_connection(place, 5)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        held.append(sock)
        ends["opened"] += 1
    except AssertionError:
        ends["closed"] += 1
    except OSError as error:
        ends[errno.errorcode.get(error.errno, type(error).__name__)] += 1
print(json.dumps({"ends": ends, "names": found, "addresses": len(addresses)}))
