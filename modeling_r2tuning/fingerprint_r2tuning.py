"""Detect that weights have changed: stamps, which are quick to compare, and fingerprints, which outlive the process."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import torch


SAMPLES = 64  # values of a weight that are compared, as changes through `.data` bypass its version counter


@dataclass(frozen=True)
class Stamp:
    """Identifies weights within a process."""

    places: list[tuple]
    samples: torch.Tensor

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor], purpose: Hashable = None) -> "Stamp":
        """Stamp of weights by name, for a purpose such as the precision that they are copied to."""
        places: list[tuple] = [(purpose,)]
        samples = []
        for name, weight in weights.items():
            version = None if weight.is_inference() else weight._version
            places.append((name, weight.device, weight.data_ptr(), version))
            samples.append(weight.detach().flatten()[:: max(weight.numel() // SAMPLES, 1)])
        return cls(places, torch.cat(samples))

    def equals(self, other: "Stamp") -> bool:
        """Whether both stand for the same weights and purpose."""
        return self.places == other.places and torch.equal(self.samples, other.samples)


class Fingerprint:
    """Hash of weights, computed again only when they have changed."""

    def __init__(self) -> None:
        self._kept: tuple[Stamp, str] | None = None

    def get(self, weights: dict[str, torch.Tensor], structure: str) -> str:
        """16 hexadecimal digits for the values of the weights, in order, and a description of what they belong to."""
        stamp = Stamp.of(weights, structure)
        kept = self._kept  # read once, as another thread may replace it
        if kept is None or not kept[0].equals(stamp):
            kept = self._kept = stamp, _digest(weights, structure)
        return kept[1]

    def __reduce__(self) -> tuple[type["Fingerprint"], tuple[()]]:
        return Fingerprint, ()  # a copy of the model has weights of its own


def _digest(weights: dict[str, torch.Tensor], structure: str) -> str:
    digest = hashlib.sha256(structure.encode())
    for value in weights.values():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = ["Fingerprint", "Stamp"]
