"""DSC-Net: deep subspace clustering networks (Ji, Zhang, Li, Salzmann, Reid, NIPS 2017, sec. 3), full batch.

    a ||X - D(C Z)||² + s ||Z - C Z||² + λ ||C||²,    Z = E(X)

or λ ||C||₁ with a zero diagonal. Every step takes all samples, and gradients flow everywhere. The model is that of
BDSC, which in one batch with live rows is this one. Weights of presets are those of the l2 penalty; the l1 variant was
never released (github.com/panji1990/Deep-subspace-clustering-networks), so it takes the same λ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dsclust.methods.bdsc import BDSCMethod, PairwiseMethod
from dsclust.parts.method import register_method


@register_method
@dataclass(frozen=True)
class DSCNetMethod(PairwiseMethod):
    """Settings of DSC-Net: the penalty. A batch size bounds the memory of activations and changes nothing else."""

    name: ClassVar[str] = "dscnet"
    title: ClassVar[str] = "DSC-Net"
    summary: ClassVar[str] = "a coefficient for every pair, all samples in every step"

    @property
    def full_batch(self) -> bool:
        return True

    @property
    def shuffles(self) -> bool:
        return False

    def as_bdsc(self) -> BDSCMethod:
        zero_diagonal = self.penalty_part.zero_diagonal
        return BDSCMethod(penalty=self.penalty, consistency="exact", zero_diagonal=zero_diagonal)
