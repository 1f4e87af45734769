"""What the parsers promise together: the broker's root is empty, so they import nothing late."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
from supervisor.egress import dns, resolver, upstream
from tests.fuzz import runner

targets = [runner.load(name) for name in runner.names()]
import encodings.latin_1, encodings.utf_16_le  # what the targets themselves need
late = []

class Closed:
    def find_spec(self, name, path=None, target=None):
        late.append(name)
        raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Closed())
for target in targets:
    result = runner.run(target, 2000, seed=1)
    assert result.failure is None, (result.failure, late)

async def nobody():
    try:
        await resolver.Resolver(["127.0.0.1:9"]).resolve("xn--bcher-kva.example.com")
    except resolver.ResolveError as error:
        str(error)

asyncio.run(nobody())
assert not late, late
"""


def test_nothing_is_imported_when_it_is_first_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
