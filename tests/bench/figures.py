"""Percentiles, ratios, and the goals that they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the result: ours, and that of the `peer` where there is one to compare with.

    `goal` is a bound on `judged`: at most, or with `at_least` at least.
    """

    name: str
    unit: str
    ours: float
    bare: float | None = None
    peer: str = "runc run"
    goal: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's."""
        return None if self.bare is None else self.ours / self.bare

    @property
    def judged(self) -> float:
        """What the goal bounds: the ratio where there is one, else our figure."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Say whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.judged >= self.goal if self.at_least else self.judged <= self.goal


def percentile(values: Sequence[float], percent: int) -> float:
    """Give a percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
