"""Every word a user may type, once: on the command line, in an estimator, in a setting of a method.

Owns the words and nothing else. A choice is a `Literal`, for type checkers and the command line, and `words` makes the
tuple of it; a method's name is that of its file, a part's is registered beside its class. Light: whoever asks for help
loads neither torch nor scikit-learn.
"""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, get_args

# Data.
Color = Literal["auto", "gray", "rgb"]
# Networks and their training.
PresetName = Literal["orl", "coil20", "coil100", "eyaleb", "mnist", "digits"]
Gradient = Literal["splice", "detach", "detach+ae"]
Anchor = Literal["z", "z_hat"]
Solver = Literal["ridge", "elastic_net", "omp"]
# From C to labels.
Affinity = Literal["post", "plain", "sparse", "neighbors"]
AssignLabels = Literal["kmeans", "discretize", "cluster_qr"]
# In the order of the page of results; the module of each has the same name, with _ for -.
ExperimentName = Literal[
    "table1", "figure4", "consistency", "anchor", "sscn", "features", "auto", "clbdsc-vs-bdsc", "scale"
]

AUTO = "auto"  # the method that is chosen when the data are there


def words(choice: Any) -> tuple[str, ...]:
    """Return the words of a `Literal`, in their order."""
    return get_args(choice)


def method_names() -> tuple[str, ...]:
    """List the methods of this package by their files, without importing one; a file that starts with _ is none."""
    folder = Path(__file__).parent / "methods"
    return tuple(sorted(module.name for module in iter_modules([str(folder)]) if not module.name.startswith("_")))
