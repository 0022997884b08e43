"""Runs inside the virtual machine: no provider, one that nobody knows, and a guest below VMPL 0."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from attestation.configfs_tsm import fetch_quote, find_provider
from attestation.errors import QuoteError
from attestation.kernel_tree import KernelTree
from attestation.tsm import Quote
from tests.attestation.tsm_client import Sleeps, failure
from tests.attestation.tsm_semantics import DATA, error_of
from tests.kernel.guest.provider import answering

KIND = os.environ["LUCID_FAKE_KIND"]


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(kind != KIND, reason=f"of {kind}")


@pytest.fixture
def tree() -> Iterator[KernelTree]:
    made = KernelTree()
    yield made
    for entry in made.entries():
        made.rmdir(entry)


@only("none")
def test_without_a_provider_there_is_no_tee(tree: KernelTree) -> None:
    assert error_of(tree.mkdir, "e") == "ENXIO"
    error = failure(tree)
    assert (error.code, error.errno, error.final) == ("quote.no_tee", errno.ENXIO, True)
    with pytest.raises(QuoteError, match="looked for a configfs-tsm provider"):
        find_provider(tree)


@only("unknown")
def test_an_unknown_provider_is_named_and_refused(tree: KernelTree) -> None:
    error = failure(tree)
    assert (error.code, error.final) == ("quote.provider", True)
    assert "arm_cca_guest" in str(error)
    with pytest.raises(QuoteError, match="arm_cca_guest"):
        find_provider(tree)
    assert tree.entries() == []


@only("floor")
def test_below_vmpl_0_the_client_asks_for_the_kernels_floor(tree: KernelTree) -> None:
    def level(quote: Quote) -> int:
        return int.from_bytes(quote.outblob[0x30:0x34], "little")

    with answering():
        assert level(fetch_quote(tree, DATA, sleep=Sleeps())) == 2
        assert level(fetch_quote(tree, DATA, privlevel=3, sleep=Sleeps())) == 3
        with pytest.raises(QuoteError, match="below the kernel's floor, 2"):
            fetch_quote(tree, DATA, privlevel=1, sleep=Sleeps())
        tree.mkdir("e")
        assert tree.read("e", "privlevel_floor") == b"2\n"
        assert error_of(tree.write, "e", "privlevel", b"1\n") == "EINVAL"
