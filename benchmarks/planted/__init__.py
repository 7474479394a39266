"""Faults that are planted into conversions, to learn which of them verification finds. See benchmarks/README.md."""
