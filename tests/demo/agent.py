"""The honest half: questions about texts and a table, a C program, a shell pipeline.

Each job is one tool call. Its answer is compared with one that the demo finds out by itself,
outside of any sandbox.
"""

from __future__ import annotations

import collections
import csv
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.client import FinishedCall, Supervisor
from tests.demo.evidence import Evidence, Fell, expect

HERE = Path(__file__).parent
LICENCES = Path("/usr/share/common-licenses")
PRIMES_BELOW_A_MILLION = "78498"  # OEIS A006880
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A job that was done: the question, the answer, and the call that answered."""

    question: str
    answer: str
    call_id: str
    ok: bool
    milliseconds: float


Job = Callable[[Supervisor, Path], tuple[FinishedCall, str]]


def work(client: Supervisor, results: Path) -> Iterator[Done]:
    """Do each job; files that come back are kept under `results`."""
    jobs: tuple[tuple[str, Job], ...] = (
        ("What do the licence texts of this machine say?", ask_licences),
        ("What was the revenue by region? As a chart, please.", draw_chart),
        ("How many primes are there below one million? (in C)", compile_and_run),
        ("Which words open most lines of the GPL? (a pipeline)", run_pipeline),
    )
    for question, job in jobs:
        try:
            call, answer = job(client, results)
            Evidence.of(client, call)
        except Fell as failure:
            yield Done(question=question, answer=str(failure), call_id="", ok=False, milliseconds=0)
            continue
        times = call.timeline
        yield Done(
            question=question, answer=answer, call_id=call.call_id, ok=True,
            milliseconds=(times.destroyed_ns - times.accepted_ns) / 1e6,
        )  # fmt: skip


def ask_licences(client: Supervisor, _: Path) -> tuple[FinishedCall, str]:
    """Hand the texts in and ask a program about them."""
    texts = {p.name: p.read_bytes() for p in LICENCES.iterdir() if p.is_file()}
    call = _python(
        client,
        "licences.py",
        files={f"licences/{name}": text for name, text in texts.items()},
    )
    said = json.loads(call.stdout)
    patent = {
        name: len(re.findall(rb"\bpatents?\b", text, re.IGNORECASE)) for name, text in texts.items()
    }
    longest = max(len(text.split()) for text in texts.values())
    expect(said["texts"] == len(texts), "not every text was read")
    expect(said["patent_count"] == max(patent.values()), "the count of “patent” is wrong")
    expect(patent[said["patent_most"]] == said["patent_count"], "the wrong text was named")
    expect(abs(said["longest_words"] - longest) <= longest // 100, "the length is wrong")
    return call, (
        f"{said['texts']} texts. “Patent” stands most often in {said['patent_most']} "
        f"({said['patent_count']} times) and never in {len(said['no_patent'])} of them; "
        f"{said['longest']} is the longest, with {said['longest_words']} words."
    )


def draw_chart(client: Supervisor, results: Path) -> tuple[FinishedCall, str]:
    """Hand a table in and get a picture back."""
    table = HERE / "sales.csv"
    call = _python(client, "chart.py", files={"sales.csv": table}, outputs=["*.png"])
    revenue: collections.Counter[str] = collections.Counter()
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            revenue[row["region"]] += round(int(row["units"]) * float(row["price"]) * 100)
    said = json.loads(call.stdout)
    expect(
        {region: round(amount * 100) for region, amount in said.items()} == revenue,
        f"the revenue is wrong: {said}",
    )
    width, height = check_png(call.outputs["chart.png"])
    (chart,) = call.outputs.save(results)
    amounts = ", ".join(f"{region} {amount:.2f}" for region, amount in sorted(said.items()))
    return call, f"{amounts}; the chart ({width} × {height}) is in {chart}"


def check_png(data: bytes) -> tuple[int, int]:
    """Give width and height of a PNG picture that is not blank.

    Raises:
        Fell: it is none, or one colour.
    """
    expect(data.startswith(PNG_SIGNATURE), "no PNG came back")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    expect((depth, colour) == (8, 2), "not a picture with 8 bits for each colour")
    compressed, place = b"", 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"IDAT":
            compressed += data[place + 8 : place + 8 + length]
        place += length + 12
    pixels = zlib.decompress(compressed)
    expect(len(pixels) == height * (width * 3 + 1), "the picture is incomplete")
    expect(len(set(pixels)) > 10, "the picture is blank")
    return width, height


def compile_and_run(client: Supervisor, _: Path) -> tuple[FinishedCall, str]:
    """Compile a program and run it, in one call under the profile that may do so."""
    call = client.run(
        ["sh", "-c", "gcc -O2 -o primes primes.c && ./primes"],
        profile="build",
        files={"primes.c": HERE / "tools" / "primes.c"},
        agent="demo",
    )
    expect(call.ok, f"the build {call.outcome}: {call.stderr.decode(errors='replace')}")
    answer = call.stdout.decode().strip()
    expect(answer == PRIMES_BELOW_A_MILLION, f"it counted {answer}")
    return call, f"{answer}, says a program that gcc built in the sandbox"


def run_pipeline(client: Supervisor, _: Path) -> tuple[FinishedCall, str]:
    """Run a pipeline over a text that the sandbox sees in the host's /usr, read-only."""
    pipeline = (
        "grep -oE '^ *[A-Za-z]+' /usr/share/common-licenses/GPL-3 | tr -d ' ' | tr A-Z a-z "
        "| LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2 | head -3 | awk '{print $2, $1}'"
    )
    call = client.run(["bash", "-o", "pipefail", "-c", pipeline], profile="shell", agent="demo")
    expect(call.ok, f"the pipeline {call.outcome}: {call.stderr.decode(errors='replace')}")
    words = re.findall(rb"^ *([A-Za-z]+)", (LICENCES / "GPL-3").read_bytes(), re.MULTILINE)
    counts = collections.Counter(word.decode().lower() for word in words)
    said = dict(line.split() for line in call.stdout.decode().splitlines())
    expect(len(said) == 3, "three words were asked for")
    expect(all(counts[word] == int(number) for word, number in said.items()), f"wrong: {said}")
    return call, ", ".join(f"“{word}” {number} times" for word, number in said.items())


def _python(
    client: Supervisor,
    tool: str,
    *,
    files: dict[str, bytes] | dict[str, Path],
    outputs: list[str] | None = None,
) -> FinishedCall:
    """Run one of the demo's tools under the profile `python`."""
    call = client.run(
        ["python3", tool],
        profile="python",
        files={tool: HERE / "tools" / tool, **files},
        outputs=outputs or [],
        agent="demo",
    )
    expect(call.ok, f"{tool} {call.outcome}: {call.stderr.decode(errors='replace')[-500:]}")
    return call
