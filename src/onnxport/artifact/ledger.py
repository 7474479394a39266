"""The ledger of weights: which tensor of the checkpoint every weight of a graph holds, and how that was proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Proof(StrEnum):
    """How a weight was compared with its source; the value is how it is written."""

    EXACT = "exact"  # the bytes of the checkpoint, as they are
    TRANSFORMED = "transformed"  # the bytes of the checkpoint, after the recorded transform
    SOURCE = "source"  # the bytes of the model in memory, as they were before the export
    BOUNDED = "bounded"  # quantized: no element is further away than its step allows
    COMPUTED = "computed"  # computed from the checkpoint again, equal up to rounding
    CONSTANT = "constant"  # a constant of the model's code, as it was captured
    UNPROVED = "unproved"  # not compared


@dataclass(frozen=True)
class WeightProof:
    """One weight of a graph.

    In JSON it is one text, `"transformed | to float32, transposed | model.safetensors: encoder.weight"`, so that a
    manifest has one line a weight.

    Attributes:
        proof: how it was compared.
        transform: what was done to its origins, in words; "as is" where nothing was.
        origins: what it holds: tensors of the checkpoint ("model.safetensors: encoder.weight"), parameters of the
            model, or weights of the graph that this one was made from.
    """

    proof: Proof
    transform: str
    origins: str

    @property
    def text(self) -> str:
        """The form in JSON."""
        return " | ".join((self.proof, self.transform, self.origins))

    @classmethod
    def from_text(cls, text: str) -> WeightProof:
        """The inverse of `text`.

        Raises:
            ValueError: it is not of this form.
        """
        proof, transform, origins = text.split(" | ", 2)
        return cls(Proof(proof), transform, origins)


@dataclass(frozen=True)
class Ledger:
    """All weights of one graph.

    Attributes:
        against: what they were compared with: "checkpoint", "model in memory", or "graph NAME".
        weights: by the name of the initializer, as a reader of the file sees it.
        bytes: bytes of the weights, by the kind of proof.
        read_bytes: bytes of the graph's files and of the checkpoint that were read for it.
    """

    against: str
    weights: dict[str, WeightProof] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0

    @property
    def from_source(self) -> bool:
        """Whether it was compared with the checkpoint or the model, not with another graph."""
        return not self.against.startswith("graph ")

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.bytes.values())

    @property
    def proved_bytes(self) -> int:
        """Bytes of the weights that were compared."""
        return self.total_bytes - self.bytes.get(Proof.UNPROVED, 0)


@dataclass(frozen=True)
class UnusedTensors:
    """What of the source no graph holds.

    Attributes:
        checkpoint: names of tensors of the checkpoint -> why nothing uses them.
        parameters: names of parameters of the model -> why no graph holds them.
    """

    checkpoint: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
