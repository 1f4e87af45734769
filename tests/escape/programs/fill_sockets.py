"""Fill the buffers of 60 TCP connections over loopback that nobody reads; print the bytes."""

import socket

pairs = []
sent = full = 0
for _ in range(60):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        one = socket.create_connection(server.getsockname())
        pairs.append((one, server.accept()[0]))
    one.setblocking(False)
    try:
        while True:
            sent += one.send(bytes(1 << 16))
    except BlockingIOError:
        full += 1
print(sent)
