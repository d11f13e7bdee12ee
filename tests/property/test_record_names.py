"""Names of records: Kubernetes takes each of them, and no two objects share one."""

import itertools
import re

import pytest
from hypothesis import given, strategies as st

from alauda_imageapi.cluster.records.encoding import KINDS, RecordKind

DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

kinds = st.sampled_from([*KINDS.values()])
names = st.text("ab0-_.:A/%ä", max_size=12) | st.text(max_size=300)


@given(kinds, names)
def test_kubernetes_takes_every_name(kind: RecordKind, name: str) -> None:
    record = kind.name(name)

    assert len(record) <= 253
    assert DNS.fullmatch(record)


@given(kinds, st.sets(names, min_size=2))
def test_different_objects_have_different_records(kind: RecordKind, several: set[str]) -> None:
    assert len({kind.name(name) for name in several}) == len(several)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_names_that_differ_in_their_marks_have_different_records(kind: RecordKind) -> None:
    short = [
        "".join(marks) for size in range(7) for marks in itertools.product("a-_.", repeat=size)
    ]
    # And what others are called when they are encoded.
    several = {*short, *(kind.name(name) for name in short)}

    assert len({kind.name(name) for name in several}) == len(several)
