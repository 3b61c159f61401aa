"""Will it fit, and what would: the memory that each stage of a run needs, asked before any work is done.

Owns the forecast and the refusal. A stage is named by what it makes: features, the arrays of training, and the way from
C to labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dsclust.features.map import FeatureMap
from dsclust.graph.affinity import POST_FLOAT64_LIMIT
from dsclust.graph.graph import DENSE_LIMIT
from dsclust.methods import METHODS
from dsclust.names import Affinity
from dsclust.parts.method import Method
from dsclust.presets import Preset

# Words of N² beside C at the worst moment of the way from C to labels, measured.
_LABEL_WORDS = {"post": 7, "plain": 6, "sparse": 1, "neighbors": 4}
# Bytes an entry of a sparse C at the worst moment of the same way, measured.
_ENTRY_BYTES = {"plain": 110, "sparse": 110, "neighbors": 40}


@dataclass(frozen=True)
class Stage:
    """Tell what one stage of a run needs at its worst moment: how many bytes, on "host" or on a device, for what."""

    name: str
    place: str
    bytes: int
    what: str


@dataclass(frozen=True)
class Sizes:
    """Hold what decides the memory of a run beside its features.

    n_samples: N. batch_size: None for all. affinity: the graph made of C. itemsize: bytes of a number. device: where
    training takes place.
    """

    n_samples: int
    batch_size: int | None
    method: Method
    affinity: Affinity
    itemsize: int = 4
    device: str = "cpu"

    @property
    def rows(self) -> int:
        return self.n_samples if self.batch_size is None else min(self.batch_size, self.n_samples)


def feature_stage(n_samples: int, features: FeatureMap) -> Stage:
    """Return what fitting features to so many samples needs."""
    rows = f"{n_samples} rows of {features.dim} out of {features.width} numbers"
    return Stage(f"features {features.config.kind!r}", "host", features.required_bytes(n_samples), rows)


def training_stage(sizes: Sizes) -> Stage:
    """Return what training needs in arrays that grow as N² does, C among them.

    BDSC holds C and Adam's two moments, in float32 ``12 N²`` bytes; SSCN and closed forms hold none.
    """
    n = sizes.n_samples
    needed = sizes.itemsize * sizes.method.training_words(n, sizes.rows)
    if torch.device(sizes.device).type == "cpu":
        return Stage("training", "host", needed, f"{n} x {n} coefficient matrix and its moments")
    entries = sizes.method.row_entries(n)
    C = sizes.itemsize * n * n if entries is None else (sizes.itemsize + 8) * n * entries
    return Stage("training", sizes.device, needed + C, f"{n} x {n} coefficient matrix and its moments")


def label_stage(sizes: Sizes) -> Stage:
    """Return what the way from C to labels needs.

    It holds C and about 7 ("post"), 6 ("plain"), 4 ("neighbors") or 1 ("sparse") matrices of its size, in float64 up to
    4096 samples and in float32 above: ``32 N²``, ``28 N²``, ``20 N²`` or ``8 N²`` bytes. With a sparse C of k entries a
    row, as SENet's, it holds about 40 k N ("neighbors") or 110 k N bytes ("plain", "sparse") and no N² ones above 8192
    samples.
    """
    n, entries = sizes.n_samples, sizes.method.row_entries(sizes.n_samples)
    what = f"{n} x {n} coefficient matrix and its way to labels"
    if entries is not None:
        what = f"{entries} coefficients of each and their graph"
    if entries is not None and sizes.affinity != "post" and n > DENSE_LIMIT:
        return Stage("labels", "host", _ENTRY_BYTES[sizes.affinity] * entries * n, what)
    word = 8 if n <= POST_FLOAT64_LIMIT else 4
    return Stage("labels", "host", (sizes.itemsize + _LABEL_WORDS[sizes.affinity] * word) * n * n, what)


def stages(sizes: Sizes) -> tuple[Stage, ...]:
    """Return what each stage of a run after its features needs, in their order."""
    return training_stage(sizes), label_stage(sizes)


def required_bytes(sizes: Sizes, place: str = "host") -> int:
    """Return what the stage of a run after its features that needs most of a place needs of it."""
    return max((stage.bytes for stage in stages(sizes) if stage.place == place), default=0)


def available_bytes(place: str = "host") -> int | None:
    """Return the memory that a new array could have, or None where the system does not tell."""
    if place != "host":
        return int(torch.cuda.mem_get_info(place)[0])
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:  # a container may allow less than the machine has
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            available = min(available, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass
    return available


def check_features(n_samples: int, features: FeatureMap) -> None:
    """Raise MemoryError where the features of so many samples cannot fit."""
    stage = feature_stage(n_samples, features)
    available = available_bytes(stage.place)
    if available is not None and stage.bytes > available:
        raise MemoryError(
            f"{stage.name}: {stage.what} need about {_gib(stage.bytes)} of host memory; {_gib(available)} are free. "
            "Alternatives: a smaller resize, fewer principal components (pca), or fit fewer samples and label the rest "
            "with predict"
        )


def check_run(sizes: Sizes, preset: Preset, n_clusters: int) -> None:
    """Raise MemoryError, with what needs less, where the stage that needs most of a place cannot fit."""
    asked = stages(sizes)
    for place in dict.fromkeys(stage.place for stage in asked):
        stage = max((one for one in asked if one.place == place), key=lambda one: one.bytes)
        available = available_bytes(place)
        if available is not None and stage.bytes > available:
            raise MemoryError(
                f"{sizes.method.title}: {stage.name}: {sizes.n_samples} samples need about {_gib(stage.bytes)} of "
                f"{stage.place} memory for the {stage.what}; {_gib(available)} are free. Alternatives: "
                f"{_alternatives(sizes, preset, n_clusters, stage.place, available)}"
            )


def _alternatives(sizes: Sizes, preset: Preset, n_clusters: int, place: str, available: int) -> str:
    """Return what would need less of the memory at a place, or none, in words with numbers."""

    def needed(n: int, method: Method = sizes.method, affinity: Affinity = sizes.affinity) -> int:
        return required_bytes(replace(sizes, n_samples=n, method=method, affinity=affinity), place)

    n, fitting = sizes.n_samples, sizes.n_samples
    while needed(fitting) > available:
        fitting = fitting * 99 // 100  # near enough: within one in a hundred
    found = [f"fit up to {fitting} samples and label the rest with predict"] if fitting >= n_clusters else []
    others = {"affinity 'plain'": needed(n, affinity="plain")}
    for name, kind in METHODS.items():
        method = kind()
        others[f"method {name}"] = needed(n, method, method.adapt_preset(preset).graph.affinity)
    least_first = sorted(others.items(), key=lambda other: other[1])
    found += [f"{what} ({_gib(count)})" for what, count in least_first if count < needed(n)]
    return "; ".join(found)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
