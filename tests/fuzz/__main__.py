"""`python -m tests.fuzz TARGET --inputs N`: feed a parser inputs, and say how many a second.

With `--input HEX` it tries that one alone, as a failure names it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.fuzz import runner

STEP = 250_000
"""Inputs between two lines of progress."""


def main() -> int:
    """Run; the exit code is 1 where an input failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=runner.names())
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--input", type=bytes.fromhex, help="one input, in hexadecimal")
    options = parser.parse_args()
    target = runner.load(options.target)
    if options.input is not None:
        target.check(options.input)
        say("nothing wrong with this input")
        return 0
    done, taken_s = 0, 0.0
    while done < options.inputs:
        # Each step has a seed of its own: a failure is repeated without all that came before it.
        seed = options.seed + done // STEP
        result = runner.run(target, min(STEP, options.inputs - done), seed)
        done, taken_s = done + result.inputs, taken_s + result.duration_s
        if result.failure is not None:
            say(f"{options.target}: input {result.inputs} of seed {seed}")
            say("".join(traceback.format_exception(result.failure.error)))
            say(f"python -m tests.fuzz {options.target} --input {result.failure.data.hex()}")
            return 1
        say(f"{options.target}: {done} inputs, {done / taken_s:.0f}/s, seed {seed}, none failed")
    return 0


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
