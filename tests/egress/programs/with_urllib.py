"""Get documents with the standard library; prints them."""

import sys
import urllib.request

for url in sys.argv[1:]:
    with urllib.request.urlopen(url, timeout=20) as response:
        print(response.read().decode(), end="")
