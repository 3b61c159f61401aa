"""Every word that a user may type, once. Light: the command line reads it before anything heavy is imported.

`words` lists those of a `Literal`. Methods are not listed: each is a file of `dsclust/methods`, and `method_names`
reads the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

PresetName = Literal["orl", "coil20", "coil100", "eyaleb", "mnist", "digits"]
Affinity = Literal["post", "plain", "sparse", "neighbors"]
AssignLabels = Literal["kmeans", "discretize", "cluster_qr"]
Color = Literal["auto", "gray", "rgb"]
Gradient = Literal["splice", "detach", "detach+ae"]
Anchor = Literal["z", "z_hat"]
Solver = Literal["ridge", "elastic_net", "omp"]


def words(kind: Any) -> tuple[str, ...]:
    """Return the words of a `Literal`, in its order."""
    return get_args(kind)


def method_names() -> tuple[str, ...]:
    """Return the names of the methods that come with the package, without importing any."""
    return tuple(sorted(path.stem for path in Path(__file__).with_name("methods").glob("[!_]*.py")))
