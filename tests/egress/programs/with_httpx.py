"""Get documents with httpx over connections that are kept; prints them."""

import sys

import httpx

with httpx.Client(timeout=20, trust_env=True) as client:
    for url in sys.argv[1:]:
        for _ in range(3):
            response = client.get(url)
            response.raise_for_status()
            print(response.text, end="")
