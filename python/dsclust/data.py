"""Data sets: whatever the user has, as one float32 array with its labels, if there are any.

Owns reading and checking input: scikit-learn's digits, folders of images, .npy, .npz, .mat and
arrays. Knows no model. Files are read without pickle. Layout of .mat files: `fea` with one sample a
row, images column by column, and `gnd`, as Cai's face and object collections use it.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsclust.checks import one_of
from dsclust.names import Color, PresetName, words
from dsclust.samples import ArraySamples, Samples, as_samples, blocks, extremes

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NPZ_SAMPLES = ("images", "X", "x", "data", "features", "fea")
NPZ_LABELS = ("labels", "y", "gnd", "targets", "target")
SCALES = (1.0, 255.0, 65535.0)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Hold samples and what is known about them.

    samples: (n, c, h, w) images or (n, f) feature vectors, finite, values as in the source; an array may be given.
    labels: int64 (n,) or None; only ever used for scores, never for fitting.
    pixel_range: the scale the values live on, such as (0, 255), or None where it cannot be told.
    files: path of each sample relative to the folder read, or None. preset: the name of the preset that was made for
    these samples, for methods that train on them as they are.
    """

    samples: Samples
    labels: npt.NDArray[np.int64] | None
    name: str
    pixel_range: tuple[float, float] | None
    files: tuple[str, ...] | None = None
    preset: PresetName | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", as_samples(self.samples))

    @cached_property
    def X(self) -> npt.NDArray[np.float32]:
        """All samples as one array, for those who need them at once."""
        return self.samples.read(0, self.n_samples)

    @property
    def n_samples(self) -> int:
        return self.samples.n

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(c, h, w) or (f,)."""
        return self.samples.shape[1:]

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width), or None for feature vectors."""
        shape = self.sample_shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    def take(self, rows: npt.NDArray[np.int64]) -> Dataset:
        """Return the samples with these indices, in rising order, with all that is known about them."""
        parts = []
        for lo, hi in blocks(self.samples):
            inside = rows[(rows >= lo) & (rows < hi)]
            if inside.size:
                parts.append(self.samples.read(lo, hi)[inside - lo])
        return replace(
            self,
            samples=ArraySamples(np.concatenate(parts)),
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[i] for i in rows),
        )


def infer_pixel_range(least: float, largest: float) -> tuple[float, float] | None:
    """Return (0, 1), (0, 255) or (0, 65535) when nothing is negative and the largest value lies in the
    upper half of just that scale; None otherwise."""
    if least < 0:
        return None
    for top in SCALES:
        if top / 2 < largest <= top:
            return (0.0, top)
    return None


def load(
    source: str | os.PathLike[str] | npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
    pixel_range: tuple[float, float] | None = None,
    resize: tuple[int, int] | None = None,
    color: Color = "auto",
    name: str | None = None,
) -> Dataset:
    """Read a data set.

    source
        ``"digits"`` (scikit-learn's embedded 1797 digits, 8 x 8, values 0..16); a folder, read
        recursively in path order (where every image lies in a sub-folder, the sub-folders are the
        classes); a `.npy`, `.npz` or `.mat` file; or an array: (n, f) features, (n, h, w) gray
        images, (n, c, h, w) or (n, h, w, c) images with c = 1 or 3.
        `.npz`: samples under the first of images, X, x, data, features, fea that is there and
        labels under the first of labels, y, gnd, targets, target; or x_train/x_test joined in this
        order with y_train/y_test; or a single array of any name.
        `.mat`: `fea` (n, f), and `gnd` if it is there. Rows of f = s*s values are taken for s x s
        images stored column by column, as is usual for these files, and turned upright.
    labels
        (n,) integers or strings, instead of those of the source. Strings are numbered in sorted
        order, integers kept.
    image_shape
        (h, w) or (c, h, w): read rows of features as images of this shape (in `.mat` files column
        by column).
    pixel_range
        The scale of the values. Default: (0, 255) for 8-bit and (0, 65535) for 16-bit image files,
        otherwise :func:`infer_pixel_range`.
    resize, color
        Folders only: size (h, w) to resample all images to (default: they must agree), and whether
        to read "gray" or "rgb" ("auto": gray when every file is gray).

    Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, for values that are
    not finite and for no samples at all, FileNotFoundError, and ValueError for a file of a kind
    that is not read. Deterministic.
    """
    files: tuple[str, ...] | None = None
    found_labels: npt.ArrayLike | None = None
    column_major = False
    preset: PresetName | None = None
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if str(source) == "digits":
            from sklearn.datasets import load_digits

            digits = load_digits()
            values, found_labels, default_name = digits.images, digits.target, "digits"
            pixel_range, preset = (0.0, 16.0), "digits"
        elif path.is_dir():
            values, found_labels, files, file_range = _read_folder(path, resize, color)
            pixel_range, default_name = pixel_range or file_range, path.resolve().name
        elif not path.exists():
            raise FileNotFoundError(
                f"load: source: expected 'digits', a folder or a file, got {str(source)!r}, which does not exist"
            )
        else:
            values, found_labels = _read_file(path)
            column_major, default_name = path.suffix.lower() == ".mat", path.stem
    else:
        values, default_name = np.asarray(source), "array"
    if files is None and (resize is not None or color != "auto"):
        raise ValueError("load: resize, color: only a folder of images can be resampled")

    if values.dtype.kind not in "buif":
        raise TypeError(f"load: samples: expected real numbers, got dtype {values.dtype}")
    X = _as_samples(values, image_shape, column_major)
    if X.shape[0] == 0 or X[0].size == 0:
        raise ValueError(f"load: samples: expected at least one, got shape {values.shape}")
    samples = ArraySamples(X)
    _check_finite(samples)
    if labels is None:
        labels = found_labels
    return Dataset(
        samples,
        labels=None if labels is None else _as_labels(labels, samples.n),
        name=name or default_name,
        pixel_range=pixel_range or infer_pixel_range(*extremes(samples)),
        files=files,
        preset=preset,
    )


def _check_finite(samples: Samples) -> None:
    """Raise ValueError where any value is not finite in float32."""
    broken = []
    for lo, hi in blocks(samples):
        # Some doubles overflow float32, so the check comes after the conversion.
        part = samples.read(lo, hi)
        if not math.isfinite(float(part.sum(dtype=np.float64))):
            broken += (lo + np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1))).tolist()
    if broken:
        raise ValueError(
            f"load: samples: expected finite float32 values, got NaN or infinity in {len(broken)} "
            f"of {samples.n} samples, the first at index {broken[0]}"
        )


def _as_samples(
    values: npt.NDArray[Any],
    image_shape: tuple[int, int] | tuple[int, int, int] | None,
    column_major: bool,
) -> npt.NDArray[Any]:
    """Samples as (n, f) or (n, c, h, w)."""
    if values.ndim == 2:
        side = round(values.shape[1] ** 0.5)
        if image_shape is None and column_major and side > 1 and side * side == values.shape[1]:
            image_shape = (side, side)
        if image_shape is None:
            return values
        shape = (1, *image_shape) if len(image_shape) == 2 else image_shape
        if len(shape) != 3 or min(shape) < 1 or np.prod(shape) != values.shape[1]:
            raise ValueError(
                f"load: image_shape: expected (h, w) or (c, h, w) of {values.shape[1]} values, got {image_shape}"
            )
        if column_major:
            channels, height, width = shape
            columns: npt.NDArray[Any] = values.reshape(-1, channels, width, height).swapaxes(2, 3)
            return columns
        images: npt.NDArray[Any] = values.reshape(-1, *shape)
        return images
    if image_shape is not None:
        raise ValueError(f"load: image_shape: only for rows of features, got samples of shape {values.shape}")
    if values.ndim == 3:
        return values[:, None]
    if values.ndim == 4:
        first, last = values.shape[1] in (1, 3), values.shape[3] in (1, 3)
        if first != last:
            return values if first else np.moveaxis(values, 3, 1)
        raise ValueError(
            "load: samples: expected images (n, c, h, w) or (n, h, w, c) with c = 1 or 3 on "
            f"exactly one side, got shape {values.shape}"
        )
    raise ValueError(
        f"load: samples: expected (n, f) features, (n, h, w) or (n, c, h, w) images, got shape {values.shape}"
    )


def _as_labels(labels: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim == 2 and 1 in y.shape:
        y = y.reshape(-1)
    if y.shape != (n,):
        raise ValueError(f"load: labels: expected one for each of {n} samples, got shape {y.shape}")
    if y.dtype.kind in "US":
        return np.unique(y, return_inverse=True)[1].astype(np.int64)
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.floor(y)).all():
        return y.astype(np.int64)
    if y.dtype.kind not in "bui":
        raise TypeError(f"load: labels: expected integers or strings, got dtype {y.dtype}")
    return y.astype(np.int64)


def _read_file(path: Path) -> tuple[npt.NDArray[Any], npt.ArrayLike | None]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_numpy(path), None
    if suffix == ".npz":
        return _pick_arrays(path, _read_numpy(path))
    if suffix == ".mat":
        return _read_mat(path)
    raise ValueError(f"load: source: expected a folder of images, .npy, .npz or .mat, got {path.name!r}")


def _read_numpy(path: Path) -> Any:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)  # an archive is read whole
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return {key: content[key] for key in content.files}
        return content
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"load: {path.name}: not a readable {path.suffix} file of plain numbers ({error})") from error


def _pick_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], npt.ArrayLike | None]:
    for key in NPZ_SAMPLES:
        if key in arrays:
            return arrays[key], next((arrays[k] for k in NPZ_LABELS if k in arrays), None)
    if "x_train" in arrays:
        parts = [p for p in ("train", "test") if f"x_{p}" in arrays]
        labeled = all(f"y_{p}" in arrays for p in parts)
        return (
            np.concatenate([arrays[f"x_{p}"] for p in parts]),
            np.concatenate([arrays[f"y_{p}"] for p in parts]) if labeled else None,
        )
    if len(arrays) == 1:
        return next(iter(arrays.values())), None
    raise ValueError(
        f"load: {path.name}: expected samples under one of {', '.join(NPZ_SAMPLES)} or x_train, "
        f"got {', '.join(sorted(arrays)) or 'no arrays'}"
    )


def _read_mat(path: Path) -> tuple[npt.NDArray[Any], npt.ArrayLike | None]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=("fea", "gnd"))
    except NotImplementedError as error:
        raise ValueError(
            f"load: {path.name}: MATLAB 7.3 files (HDF5) are not read; save it in MATLAB with "
            "save(file, 'fea', 'gnd', '-v7')"
        ) from error
    except (MatReadError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"load: {path.name}: not a readable .mat file ({error})") from error
    if "fea" not in content:
        raise ValueError(f"load: {path.name}: expected samples in a variable named fea")
    fea = content["fea"]
    return (fea.toarray() if hasattr(fea, "toarray") else fea), content.get("gnd")


def _read_folder(
    folder: Path, resize: tuple[int, int] | None, color: Color
) -> tuple[npt.NDArray[Any], npt.ArrayLike | None, tuple[str, ...], tuple[float, float]]:
    from PIL import Image, UnidentifiedImageError

    one_of("load", "color", color, words(Color))
    # os.walk does not follow links to folders, so a folder linked into itself ends.
    paths = sorted(
        Path(root, file).relative_to(folder)
        for root, _, names in os.walk(folder)
        for file in names
        if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
    )
    if not paths:
        raise ValueError(f"load: source: expected images in {str(folder)!r}, found none")
    images: list[npt.NDArray[Any]] = []
    deep: set[bool] = set()
    for path in paths:
        try:
            with Image.open(folder / path) as image:
                is_deep = image.mode.startswith("I")
                is_gray = is_deep or image.mode in ("1", "L", "LA", "La")
                if is_deep and color == "rgb":
                    raise ValueError(f"load: {path}: 16-bit images are read as gray only")
                if not is_deep:
                    image = image.convert("L" if is_gray or color == "gray" else "RGB")
                if resize is not None:
                    image = image.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
                pixels = np.asarray(image)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"load: {path}: not a readable image ({error})") from error
        deep.add(is_deep)
        if resize is None and images and pixels.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"load: {path}: images must agree in size or be resampled with resize=(h, w); "
                f"expected {images[0].shape[:2]} as in {paths[0]}, got {pixels.shape[:2]}"
            )
        images.append(pixels)
    if len(deep) > 1:
        raise ValueError("load: source: a mixture of 8-bit and 16-bit images has no common scale")
    if color == "rgb" or any(image.ndim == 3 for image in images):
        images = [np.stack([i] * 3, axis=2) if i.ndim == 2 else i for i in images]
        values = np.stack(images).transpose(0, 3, 1, 2)
    else:
        values = np.stack(images)[:, None]
    labels = [p.parts[0] for p in paths] if all(len(p.parts) > 1 for p in paths) else None
    return (
        values,
        labels,
        tuple(p.as_posix() for p in paths),
        (0.0, 65535.0) if deep == {True} else (0.0, 255.0),
    )
