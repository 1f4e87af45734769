"""When a machine is booted again: where its kernel panics before it has come to us."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.vm import machine

PANICKED = machine.Run(code=None, output="", console="… Kernel panic - not syncing: …")
ENDED = machine.Run(code=0, output="6.1.0", console="")
SILENT = machine.Run(code=None, output="", console="Booting …")
LATER = machine.Run(code=None, output="6.1.0\n1 passed", console="Kernel panic")
KERNEL = machine.Kernel(image=Path("vmlinuz"), modules=Path("6.1.0"))


@pytest.mark.parametrize(
    ("boots", "result"),
    [
        ([ENDED], ENDED),
        ([PANICKED, ENDED], ENDED),
        ([PANICKED, PANICKED, PANICKED], PANICKED),
        ([SILENT], SILENT),
        ([LATER], LATER),
    ],
)
def test_only_a_panic_at_boot_is_tried_again(
    boots: list[machine.Run], result: machine.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: Iterator[machine.Run] = iter(boots)
    monkeypatch.setattr(machine, "_run", lambda *_, **__: next(left))
    assert (
        machine.run(cast("machine.Tools", None), KERNEL, [], timeout_s=1, stop=threading.Event())
        is result
    )
    assert list(left) == []
