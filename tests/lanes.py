"""Run the tests in two lanes beside each other, each a pytest of its own; `make test` does.

    python -m tests.lanes [OPTIONS OF PYTEST]

In one lane is what computes, in the other what starts daemons and waits for them. What they print
is not mixed: first all of the one, as it comes, then the other's from its beginning. The last line
counts both. Where an argument is a path, or asks for something that only one process can do, it is
one pytest as ever.

The exit code is the worse of the two; 5, that nothing was collected, counts where it is of both.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import pytest

COMPUTING = ("tests/unit", "tests/style", "tests/fuzz", "tests/ocsf")
"""The folders of the first lane. The other has all else below `tests`: none is in neither."""

ALONE = (
    "-x", "--exitfirst", "--maxfail", "-s", "--capture", "--pdb", "--trace", "--basetemp",
    "--junit", "--sw", "--stepwise", "--lf", "--last-failed", "--ff", "-h", "--help", "--version",
)  # fmt: skip
"""Beginnings of options about one process, its terminal or its files."""

NICE = 5
"""The first lane waits for little, and is in the way of no daemon of the other."""

POLL_S = 0.1
CHUNK_BYTES = 1 << 16
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTHING_COLLECTED = 5

ANSI = re.compile(r"\x1b\[[0-9;]*m")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|errors?)\b")
SUMMARY = re.compile(r"(?:=+ )?(?:\d+ [a-z]+,? )+in [\d.]+s\b")
"""The last line of pytest: `== 12 passed, 1 skipped in 3.20s ==`."""


class Lane:
    """A pytest of its own, in a process group of its own: Ctrl-C reaches it through us, once."""

    def __init__(self, arguments: Sequence[str], output: Path, *, nice: int) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                ["nice", "-n", str(nice), sys.executable, "-m", "pytest", *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
            )  # fmt: skip

    def send(self, number: int) -> None:
        """Pass a signal on."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Interrupt it where it still runs: nobody reads it any more. Wait for its end."""
        self.send(signal.SIGINT)
        self._process.wait()

    def show(self, to: BinaryIO) -> int:
        """Write what it prints, from the beginning to its end; give its exit code, 128 and the
        signal where one ended it."""
        with self._output.open("rb") as reader:
            ended = False
            while not ended:
                # Asked first: what comes before the end is read after it.
                ended = self._process.poll() is not None
                while chunk := reader.read(CHUNK_BYTES):
                    to.write(chunk)
                to.flush()
                if not ended:
                    time.sleep(POLL_S)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def counts(self) -> Counter[str]:
        """Give how many tests passed, failed and so on; empty where its last line does not say."""
        text = ANSI.sub("", self._output.read_text(errors="replace"))
        return counted(text)


def counted(output: str) -> Counter[str]:
    """Read the counts of pytest's last summary; empty where there is none.

    >>> counted("== 12 passed, 1 skipped in 3.20s ==")
    Counter({'passed': 12, 'skipped': 1})
    """
    lines = [line for line in output.splitlines() if SUMMARY.match(line)]
    found = COUNT.findall(lines[-1]) if lines else []
    return Counter({("error" if what == "errors" else what): int(n) for n, what in found})


def worse(codes: Sequence[int]) -> int:
    """Give the exit code of several runs: that one found no test is nothing where another did."""
    ran = [code for code in codes if code != NOTHING_COLLECTED]
    return max(ran, default=NOTHING_COLLECTED)


def is_one(arguments: Sequence[str]) -> bool:
    """Say whether these arguments are for one pytest."""
    return any(one.startswith(ALONE) or Path(one.partition("::")[0]).exists() for one in arguments)


def lanes(folders: Sequence[str] = COMPUTING, top: str = "tests") -> list[list[str]]:
    """Give what each lane runs, as arguments: some folders, and `top` without them."""
    return [list(folders), [top, *(f"--ignore={folder}" for folder in folders)]]


def run(arguments: Sequence[str], selections: Sequence[Sequence[str]], to: BinaryIO) -> int:
    """Run a lane for each selection with the same arguments, and give the exit code of all."""
    begin = time.monotonic()
    looks = ["--color=yes"] if to.isatty() else []
    with tempfile.TemporaryDirectory(prefix="stockade-lanes-") as folder, ExitStack() as held:
        running: list[Lane] = []
        held.enter_context(passed_on(running))
        for n, selection in enumerate(selections):
            # Of a cache for both, what failed in the one would be lost by the other.
            own = [f"--override-ini=cache_dir=.pytest_cache/{n}", *looks]
            output, nice = Path(folder, str(n)), 0 if n else NICE
            running.append(Lane([*own, *arguments, *selection], output, nice=nice))
            held.callback(running[-1].end)
        codes = [lane.show(to) for lane in running]
        total: Counter[str] = sum((lane.counts() for lane in running), Counter())
    said = ", ".join(f"{count} {what}" for what, count in sorted(total.items())) or "no summary"
    to.write(f"=== both lanes ===\n=== {said} in {time.monotonic() - begin:.2f}s ===\n".encode())
    to.flush()
    return worse(codes)


@contextmanager
def passed_on(running: Sequence[Lane]) -> Iterator[None]:
    """Pass signals that ask us to end on to every lane, and end when they have."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for lane in running:
            lane.send(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the tests as the command line says, and exit as they did."""
    arguments = sys.argv[1:]
    if is_one(arguments):
        sys.exit(pytest.main(arguments))
    sys.exit(run(arguments, lanes(), sys.stdout.buffer))


if __name__ == "__main__":
    main()
