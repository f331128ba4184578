"""Mutations of all that others write and we read: resource files, the configuration, BFD, etcd, Kubernetes, CNI.

A bounded number of them in ``make test``, always the same; ``make fuzz MINUTES=n`` goes on with new ones. Nothing but
the error that the reader is said to raise comes out, nothing takes long, and what was good before stays.
"""

from __future__ import annotations

import os
import time
from random import Random
from typing import Any

import pytest

from bgpd.config.config import Config
from bgpd.config.section import mistakes_of
from bgpd.datastore.calico.decode import decode
from tests.hostile.inputs import CORPUS, READERS, RESOURCES, WHOLE_CONFIG, anything_at_each_place, mutated

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
MOST = 1.5
"""Seconds of mutations of one reader in make test, at most; and how many there are."""
COUNT = 600
SLOW = 2.0
"""Seconds that nothing may take, on a busy machine."""


def story(name: str, seed: int) -> None:
    reader = READERS[name]
    data = mutated(reader, Random(seed))
    began = time.process_time()
    try:
        reader.read(data)
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}: {data[:2000]!r}") from error
    assert time.process_time() - began < SLOW, f"{name}, seed {seed}: slow"


@pytest.mark.parametrize("name", READERS)
def test_examples(name: str) -> None:
    for example in READERS[name].examples:
        READERS[name].read(example)
    for found in sorted((CORPUS / name).glob("*")):
        READERS[name].read(found.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_mutations(name: str) -> None:
    end = time.process_time() + MOST
    for seed in range(COUNT):
        story(name, seed)
        if time.process_time() > end:
            break


@pytest.mark.parametrize("example", RESOURCES, ids=lambda each: each["kind"])
def test_anything_at_each_place_of_a_resource(example: dict[str, Any]) -> None:
    for value in anything_at_each_place(example):
        list(decode(value, "x.yaml"))


def test_anything_at_each_place_of_the_configuration() -> None:
    for value in anything_at_each_place(WHOLE_CONFIG):
        try:
            Config.parse(value)
        except ValueError as error:
            assert mistakes_of(error)


@pytest.mark.skipif(not MINUTES, reason="make fuzz MINUTES=n")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", READERS)
def test_mutations_for_a_while(name: str) -> None:
    end, seed = time.monotonic() + MINUTES * 30 / len(READERS), int(time.time()) << 20
    while time.monotonic() < end:
        seed += 1
        story(name, seed)
