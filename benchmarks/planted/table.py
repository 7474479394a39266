"""All faults."""

from __future__ import annotations

from benchmarks.planted.fault import Fault
from benchmarks.planted.table_decoders import DECODERS
from benchmarks.planted.table_further import FURTHER
from benchmarks.planted.table_others import OTHERS
from benchmarks.planted.table_texts import TEXTS

FAULTS: list[Fault] = [*TEXTS, *DECODERS, *OTHERS, *FURTHER]
assert len({fault.name for fault in FAULTS}) == len(FAULTS), "two faults of one name"
