"""Send a large body, from memory and in chunks; prints what the server made of it.

upload.py URL BYTES
"""

import hashlib
import http.client
import ssl
import sys
import urllib.parse

url, count = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2])
block = hashlib.shake_128(b"upload").digest(1 << 16)


def parts():
    for at in range(0, count, len(block)):
        yield block[: count - at]


digest = hashlib.sha256()
for part in parts():
    digest.update(part)
print(count, digest.hexdigest())
for headers in ({"Content-Length": str(count)}, {}):
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(url.hostname, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname, timeout=60)
    connection.request("POST", url.path, parts(), headers, encode_chunked=not headers)
    print(connection.getresponse().read().decode(), end="")
