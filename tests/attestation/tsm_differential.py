"""The same random operations on a tree and on the stand-in must come to the same.

Inherit, and give the fixtures `tree`, empty, and `machine`, which makes its quotes.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import ClassVar

import pytest

from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tree import SimulatedTree
from attestation.tsm import TsmTree
from tests.attestation.tsm_semantics import REPORT_DATA, TDX_REPORT_DATA

ENTRIES = ("a", "b")
READS = ("outblob", "auxblob", "provider", "generation", "privlevel_floor", "nothing")
SIZES = (1, 32, 63, 64, 64, 64, 64, 65, 128, 5000)
LEVELS = (b"0", b"1\n", b"2", b"3", b"0x2", b"03", b"+1", b"4", b"-1", b"1\0x", b"\0", b"\n",
          b"4294967295", b"4294967296", b"0x100000000", b"1" * 40, b"1" * 5000, b"0" * 5000,
          b"0" * 4094 + b"13")  # fmt: skip
ALPHABET = b"0123478xX+- \n\0a"

Step = tuple[object, ...]


def steps(rng: random.Random, count: int, *, empty_writes: bool) -> list[Step]:
    """Operations with their arguments. Entries are made often enough for something to happen."""
    found: list[Step] = []
    for _ in range(count):
        entry = rng.choice(ENTRIES)
        match rng.choices(range(6), (4, 1, 5, 4, 8, 1))[0]:
            case 0:
                found.append(("mkdir", entry))
            case 1:
                found.append(("rmdir", entry))
            case 2:
                sizes = (*SIZES, 0) if empty_writes else SIZES
                found.append(("write", entry, "inblob", rng.randbytes(rng.choice(sizes))))
            case 3:
                if rng.random() < 0.5:
                    text = rng.choice(LEVELS)
                else:
                    text = bytes(rng.choices(ALPHABET, k=rng.randint(not empty_writes, 5)))
                found.append(("write", entry, "privlevel", text))
            case 4:
                found.append(("read", entry, rng.choice(READS)))
            case _:
                found.append(("entries",))
    return found


def outcome(tree: TsmTree, step: Step) -> object:
    """What an operation comes to, without what differs from quote to quote."""
    name, *arguments = step
    operation: Callable[..., object] = getattr(tree, str(name))
    try:
        result = operation(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if arguments[1:] == ["outblob"]:
        assert isinstance(result, bytes)
        where = REPORT_DATA if len(result) == 1184 else TDX_REPORT_DATA
        level = result[0x30:0x34] if where == REPORT_DATA else b""
        return len(result), result[where], level
    return result


class SameAsStandIn:
    """What the stand-in does, this tree does."""

    empty_writes: ClassVar[bool] = True
    seeds: ClassVar[int] = 50

    def test_random_operations_come_to_the_same(
        self, tree: TsmTree, machine: SimulatedMachine
    ) -> None:
        kinds: set[object] = set()
        for seed in range(self.seeds):
            stand_in = SimulatedTree(machine)
            plan = steps(random.Random(seed), 60, empty_writes=self.empty_writes)
            for number, step in enumerate(plan):
                here, there = outcome(tree, step), outcome(stand_in, step)
                if here != there:
                    pytest.fail(
                        f"seed {seed}, step {number}: {step!r}: the tree {here!r}, the stand-in"
                        f" {there!r}; just before: {plan[max(0, number - 5) : number]!r}"
                    )
                kinds.add(here if isinstance(here, str) else type(here))
            for entry in tree.entries():
                tree.rmdir(entry)
        assert kinds >= {"EEXIST", "ENOENT", "EINVAL", "EFBIG", tuple, bytes}
