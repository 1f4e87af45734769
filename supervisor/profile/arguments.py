"""Rules on the arguments of a system call, as data that can be evaluated, inverted and compiled.

A syscall's rules are alternatives (OR) of conjunctions (AND) of `ArgRule`s; no alternatives mean
"always". Each rule looks at all 64 bits of a register through a mask: where the mask leaves bits
out, they are bits that the kernel itself does not read. libseccomp takes an argument once per
conjunction, so no conjunction here names an index twice.

`denials` gives the exact complement in the same form. The filter needs it: a syscall that is
allowed for some arguments and notified for all others must have both sides spelled out, because
in libseccomp a rule without conditions swallows those with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

BITS = 64
ALL_BITS = (1 << BITS) - 1
LOW_32 = (1 << 32) - 1
"""For an argument that the kernel declares as 32 bits wide and truncates by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgRule:
    """One condition on argument `index`: `(argument & mask) == value`, or `argument > value`.

    `op` is "eq" (all bits), "masked_eq" or "gt" (unsigned, all bits; only `denials` makes it).
    """

    index: int
    op: Literal["eq", "masked_eq", "gt"]
    value: int
    mask: int = ALL_BITS

    def matches(self, argument: int) -> bool:
        """Say whether the 64-bit `argument` fulfils this condition."""
        if self.op == "gt":
            return argument > self.value
        return argument & self.mask == self.value


Conjunction = tuple[ArgRule, ...]
Alternatives = tuple[Conjunction, ...]


def equal(index: int, value: int) -> ArgRule:
    """Make the rule that argument `index` is `value` in all 64 bits."""
    return ArgRule(index=index, op="eq", value=value)


def masked(index: int, mask: int, value: int) -> ArgRule:
    """Make the rule that argument `index` is `value` in the bits of `mask`."""
    if value & ~mask:
        raise ValueError(f"value {value:#x} has bits outside the mask {mask:#x}: never true")
    if mask == ALL_BITS:
        return equal(index, value)
    return ArgRule(index=index, op="masked_eq", value=value, mask=mask)


def not_equal(index: int, values: Iterable[int], mask: int = ALL_BITS) -> Alternatives:
    """Give alternatives that hold exactly where argument `index`, seen through `mask`, is none
    of `values`.

    libseccomp's own "not equal" compares 64 bits, so a bit that the kernel ignores would evade
    it; and several of them on one argument cannot stand in one rule. These are masked equals.
    """
    excluded = [masked(index, mask, value) for value in values]
    if not excluded:
        return ()
    return tuple((rule,) for rule in _outside(index, excluded, mask))


def evaluate(rules: Sequence[Sequence[ArgRule]], arguments: Sequence[int]) -> bool:
    """Say whether `arguments` (64-bit, unsigned) fulfil one of the alternatives, or there are
    none."""
    return not rules or any(
        all(rule.matches(arguments[rule.index]) for rule in conjunction) for conjunction in rules
    )


def denials(alternatives: Alternatives) -> Alternatives:
    """Give alternatives that hold exactly where none of `alternatives` does.

    Raises:
        ValueError: two rules on one argument overlap without being the same; the tables in
            `syscalls` are written so that this does not happen.
    """
    if not alternatives:
        return ()
    if any(not conjunction for conjunction in alternatives):
        return ()
    index = min(rule.index for conjunction in alternatives for rule in conjunction)
    groups: dict[ArgRule, list[Conjunction]] = {}
    for conjunction in alternatives:
        head = [rule for rule in conjunction if rule.index == index]
        if len(head) != 1:
            raise ValueError(f"argument {index} must be named once in each alternative")
        rest = tuple(rule for rule in conjunction if rule.index != index)
        groups.setdefault(head[0], []).append(rest)
    found: list[Conjunction] = [(rule,) for rule in _outside(index, list(groups), ALL_BITS)]
    for rule, rests in groups.items():
        found += [(rule, *denied) for denied in denials(tuple(rests))]
    return tuple(found)


def _outside(index: int, inside: list[ArgRule], window: int) -> list[ArgRule]:
    """Cover what is in none of the rules `inside`, looking only at the bits of `window`."""
    _check_disjoint(inside)
    rules: list[ArgRule] = []
    top = BITS
    if window == ALL_BITS:
        # Bits that every rule wants to be zero, counted from the top, make one comparison.
        while top and all(r.mask >> (top - 1) & 1 and not r.value >> (top - 1) & 1 for r in inside):
            top -= 1
        if top < BITS:
            rules.append(ArgRule(index=index, op="gt", value=(1 << top) - 1))
    fixed = ALL_BITS & ~((1 << top) - 1)
    _split(index, inside, window, top - 1, fixed, 0, rules)
    return rules


def _split(
    index: int,
    inside: list[ArgRule],
    window: int,
    bit: int,
    mask: int,
    value: int,
    rules: list[ArgRule],
) -> None:
    """Walk the bits downwards; `mask` and `value` are the prefix that led here."""
    if not inside:
        rules.append(masked(index, mask, value))
        return
    if bit < 0 or any(not rule.mask & ((1 << (bit + 1)) - 1) for rule in inside):
        return
    here = 1 << bit
    if not window & here or not any(rule.mask & here for rule in inside):
        _split(index, inside, window, bit - 1, mask, value, rules)
        return
    for choice in (0, here):
        alive = [r for r in inside if not r.mask & here or r.value & here == choice]
        _split(index, alive, window, bit - 1, mask | here, value | choice, rules)


def _check_disjoint(rules: list[ArgRule]) -> None:
    for position, one in enumerate(rules):
        if one.op == "gt":
            raise ValueError("gt is for denials only")
        for other in rules[position + 1 :]:
            if not (one.value ^ other.value) & one.mask & other.mask:
                raise ValueError(f"overlapping rules on argument {one.index}: {one} and {other}")
