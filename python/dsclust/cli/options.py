"""The options of `dsclust fit` and `dsclust predict`: each declared once, and what is typed made into values.

An alias is the type of a command's parameter and holds its help; the default stands in the command. `typer` checks
words and numbers, the functions below check what it cannot, naming the option.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dsclust import names

if TYPE_CHECKING:
    from dsclust.data import Dataset
    from dsclust.features import FeatureConfig
    from dsclust.parts.method import Method

# Data.
_DATA_HELP = "'digits' (embedded), a folder of images, or a .npy, .npz or .mat file."
Data = Annotated[str, Option(help=_DATA_HELP, metavar="digits|PATH")]
NewData = Annotated[str, Argument(help=_DATA_HELP, metavar="digits|PATH")]
ImageShape = Annotated[str | None, Option(help="Read rows as images: 32x32 or 3,32,32.", metavar="HxW")]
PixelRange = Annotated[str | None, Option(help="Scale of the values, such as 0,255.", metavar="LOW,HIGH")]
Resize = Annotated[str | None, Option(help="Folders: resample images to this size.", metavar="HxW")]
Color = Annotated[names.Color, Option(help="Folders: read images as gray or rgb.")]

# Method and features.
Clusters = Annotated[int | None, Option("--n-clusters", "-k", min=1, help="Default: as many as the data have labels.")]
MethodName = Annotated[
    str,
    Option(
        help="See `dsclust methods`; auto: a closed form, on the features that suit it best.",
        metavar="|".join((names.AUTO, *names.method_names())),
    ),
]
Settings = Annotated[
    list[str] | None,
    Option("--set", help="A setting of the method, as `dsclust methods` lists them.", metavar="NAME=VALUE"),
]
Features = Annotated[
    str | None,
    Option(
        help="What the method gets: the samples as they are, wavelet scattering, or a frozen pre-trained network's "
        "rows. Default: raw, or with auto what cuts best. Kept in a cache, see DSCLUST_FEATURE_CACHE.",
        metavar="raw|scattering|efficientnet-lite0|timm:NAME",
    ),
]
FeatureSize = Annotated[str, Option(help="Size that images are resampled to for features.", metavar="auto|FACTOR|HxW")]
Components = Annotated[int | None, Option(min=1, help="Keep so many principal components of the features.")]
Center = Annotated[bool, Option("--center", help="Subtract the mean of the features.")]
Unit = Annotated[bool, Option("--unit", help="Scale the features of each sample to unit length.")]

# Training.
Preset = Annotated[names.PresetName | None, Option(help="Settings of a published data set, see `dsclust presets`.")]
BatchSize = Annotated[int | None, Option(min=1, help="Samples a step. Default: the method's.")]
Epochs = Annotated[int | None, Option(min=1, help="Default: the preset's, or by size.")]
LearningRate = Annotated[float | None, Option(help="Adam's, at full batch.")]
PretrainSteps = Annotated[int | None, Option(min=1, help="Most steps of autoencoder pre-training.")]

# From C to labels.
Affinity = Annotated[
    names.Affinity | None,
    Option(
        help="DSC-Net's post-processing, |C| + |C|' as it is, its largest entries, or nearest rows of C. "
        "Default: the method's or the preset's."
    ),
]
Threshold = Annotated[float | None, Option(help="post: share of each row of |C| to keep.")]
SubspaceDim = Annotated[int | None, Option(min=1, help="post: rank per cluster.")]
Power = Annotated[float | None, Option(help="post: exponent.")]
UnitDiagonal = Annotated[bool | None, Option(help="post: set the diagonal to 1 before the decomposition.")]
AssignLabels = Annotated[
    names.AssignLabels | None, Option(help="Last step of spectral clustering. Default: the method's.")
]

# The run.
Seed = Annotated[int, Option(min=0, help="Seeds everything.")]
Baselines = Annotated[bool, Option(help="Also run k-means, the 5-NN graph and ridge on the same input.")]
Out = Annotated[Path | None, Option(help="New directory for the results. Default: runs/NAME-TIME.")]
Resume = Annotated[bool, Option("--resume", help="Go on with the unfinished run in --out.")]
Device = Annotated[str | None, Option(help="cpu or cuda. Default: cuda where there is one.")]
Threads = Annotated[int | None, Option(min=1, help="CPU threads. Default: all.")]


def load_data(
    source: str,
    *,
    image_shape: str | None,
    resize: str | None,
    color: names.Color,
    pixel_range: tuple[float, float] | None = None,
) -> Dataset:
    """Load the data set that the options name."""
    from dsclust.data import load

    return load(
        source,
        image_shape=_parse_integers("--image-shape", image_shape, (2, 3), "HxW or C,H,W"),
        pixel_range=pixel_range,
        resize=_parse_integers("--resize", resize, (2,), "HxW"),
        color=color,
    )


def _parse_integers(option: str, text: str | None, counts: tuple[int, ...], form: str) -> Any:
    """Parse `32x32` or `1,48,42`: a tuple of positive integers, of one of the lengths in `counts`."""
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or min(values) < 1:
        raise ValueError(f"{option}: expected {form}, got {text!r}")
    return values


def parse_pixel_range(text: str | None) -> tuple[float, float] | None:
    """Parse `0,255`: the smallest and the largest value there can be."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError(f"--pixel-range: expected LOW,HIGH such as 0,255, got {text!r}")
    return low, high


def parse_method(name: str, settings: list[str]) -> Method | str:
    """Make the method called `name` with settings as `gradient=detach`; "auto" stays a word and takes none."""
    from dsclust.methods import METHODS
    from dsclust.parts.registry import parse_value, setting_kinds

    if name == names.AUTO:
        if settings:
            raise ValueError("--set: expected none with --method auto; name the method")
        return name
    if name not in METHODS:
        raise ValueError(f"--method: expected one of {', '.join((names.AUTO, *METHODS))}, got {name!r}")
    kinds = setting_kinds(METHODS[name])
    values: dict[str, Any] = {}
    for text in settings:
        key, _, value = text.partition("=")
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise ValueError(f"--set: expected a setting of {name} ({known}) as NAME=VALUE, got {text!r}")
        values[key] = parse_value("--set", key, kinds[key], value)
    return METHODS[name](**values)


def parse_features(kind: str | None, resize: str, pca: int | None, center: bool, unit: bool) -> FeatureConfig | None:
    """Make the representation that the options name, or None where they leave it open."""
    from dsclust.features import FeatureConfig

    config = FeatureConfig(kind or "raw", resize, pca=pca, center=center, unit=unit)
    return None if kind is None and config.changes_nothing else config


def count_clusters(data: Dataset, n_clusters: int | None) -> int:
    """Return the number asked for, or that of the classes of the data."""
    if n_clusters is not None:
        return n_clusters
    if data.labels is None:
        raise ValueError("--n-clusters: expected a number, for the data come without labels")
    return len(set(data.labels.tolist()))


@contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """Give PyTorch and every BLAS that many CPU threads; None leaves them as they are."""
    import torch
    from threadpoolctl import threadpool_limits

    if count is not None:
        torch.set_num_threads(count)
    with threadpool_limits(limits=count):
        yield
