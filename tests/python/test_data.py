"""Loading: every source, upright images, labels, pixel scales, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dsclust.data import infer_pixel_range, load
from PIL import Image
from scipy.io import savemat


def pixels(*shape: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    values.flat[0] = 255
    return values


def save_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_digits():
    data = load("digits")
    assert data.X.shape == (1797, 1, 8, 8) and data.X.dtype == np.float32
    assert data.labels.shape == (1797,) and data.labels.dtype == np.int64
    assert (data.name, data.pixel_range, data.files) == ("digits", (0.0, 16.0), None)
    assert data.image_shape == (1, 8, 8) and data.n_samples == 1797


# -- arrays --


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 7), (5, 7)),
        ((5, 8, 6), (5, 1, 8, 6)),
        ((5, 3, 8, 6), (5, 3, 8, 6)),
        ((5, 1, 8, 6), (5, 1, 8, 6)),
        ((5, 8, 6, 3), (5, 3, 8, 6)),
        ((5, 8, 6, 1), (5, 1, 8, 6)),
    ],
)
def test_arrays(shape, expected):
    array = pixels(*shape)
    data = load(array, labels=range(5))
    assert data.X.shape == expected and data.X.flags.c_contiguous
    assert data.image_shape == (None if len(expected) == 2 else expected[1:])
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    back = data.X.transpose(0, 2, 3, 1) if len(shape) == 4 and shape[3] < 4 else data.X
    np.testing.assert_array_equal(back.reshape(shape), array)


def test_rows_are_read_as_images_on_request():
    array = pixels(4, 30)
    np.testing.assert_array_equal(load(array, image_shape=(5, 6)).X[:, 0], array.reshape(4, 5, 6))
    assert load(array, image_shape=(3, 5, 2)).X.shape == (4, 3, 5, 2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], (0, 255)),
        ([0.0, 1.0], (0, 1)),
        ([0.1, 0.8], (0, 1)),
        ([0, 40000], (0, 65535)),
        ([3.5, 128.5], (0, 255)),
        ([0.0, 0.3], None),
        ([0, 16], None),
        ([-1.0, 1.0], None),
        ([0, 70000], None),
    ],
)
def test_the_scale_is_told_from_values_only_where_it_is_plain(values, expected):
    assert infer_pixel_range(min(values), max(values)) == expected
    assert load(np.array([values])).pixel_range == expected
    assert load(np.array([values]), pixel_range=(0, 99)).pixel_range == (0, 99)


def test_labels():
    X = pixels(3, 4)
    assert load(X).labels is None
    assert load(X, labels=["b", "a", "b"]).labels.tolist() == [1, 0, 1]
    assert load(X, labels=[[7], [9], [7]]).labels.tolist() == [7, 9, 7]
    assert load(X, labels=[1.0, 2.0, 1.0]).labels.dtype == np.int64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: load(np.zeros((0, 4))), ValueError, "at least one, got shape"),
        (lambda: load(np.zeros((4, 0))), ValueError, "at least one, got shape"),
        (lambda: load(np.zeros(4)), ValueError, r"got shape \(4,\)"),
        (lambda: load(np.zeros((1, 2, 3, 4, 5))), ValueError, "got shape"),
        (lambda: load(np.zeros((2, 5, 8, 6))), ValueError, "c = 1 or 3"),
        (lambda: load(np.zeros((2, 3, 8, 3))), ValueError, "exactly one side"),
        (lambda: load(np.array([[1.0], [np.nan]])), ValueError, "1 of 2 samples.*index 1"),
        (lambda: load(np.array([[1.0], [np.inf]])), ValueError, "finite"),
        (lambda: load(np.array([[1.0], [1e300]])), ValueError, "finite float32"),
        (lambda: load(np.array([["a"]])), TypeError, "real numbers, got dtype"),
        (lambda: load(np.array([[1j]])), TypeError, "real numbers"),
        (lambda: load(np.array([[None]])), TypeError, "real numbers"),
        (lambda: load(pixels(3, 4), labels=[1, 2]), ValueError, "labels: expected one for each of 3"),
        (lambda: load(pixels(2, 4), labels=[0.5, 1.0]), TypeError, "labels: expected integers"),
        (lambda: load(pixels(2, 4), image_shape=(3, 2)), ValueError, "image_shape.*of 4 values"),
        (lambda: load(pixels(2, 4, 4), image_shape=(4, 4)), ValueError, "image_shape: only for rows"),
        (lambda: load(pixels(2, 4), resize=(3, 2)), ValueError, "resize, color"),
        (lambda: load("no/such/thing"), FileNotFoundError, "no/such/thing"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- folders --


def test_folder_with_classes_in_sub_folders(tmp_path):
    faces = tmp_path / "faces"
    arrays = {"s2/1.pgm": pixels(6, 5), "s1/b.png": pixels(6, 5), "s1/deep/c.png": pixels(6, 5)}
    for name, array in arrays.items():
        save_image(faces / name, array)
    (faces / "readme.txt").write_text("not an image")
    (faces / "s1" / ".hidden.png").write_text("nor this")
    data = load(faces)
    assert data.files == ("s1/b.png", "s1/deep/c.png", "s2/1.pgm")
    assert data.labels.tolist() == [0, 0, 1]
    assert (data.name, data.pixel_range, data.X.shape) == ("faces", (0, 255), (3, 1, 6, 5))
    for x, name in zip(data.X, data.files, strict=True):
        np.testing.assert_array_equal(x[0], arrays[name])


def test_folder_without_classes(tmp_path):
    save_image(tmp_path / "a.png", pixels(4, 4))
    save_image(tmp_path / "sub" / "b.png", pixels(4, 4))
    assert load(tmp_path).labels is None
    assert load(tmp_path, labels=[1, 0]).labels.tolist() == [1, 0]


def test_folder_in_color(tmp_path):
    gray, color = pixels(4, 5), pixels(4, 5, 3)
    save_image(tmp_path / "a.png", gray)
    save_image(tmp_path / "b.png", color)
    data = load(tmp_path)
    assert data.X.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(data.X[0], [gray] * 3)
    np.testing.assert_array_equal(data.X[1], color.transpose(2, 0, 1))
    assert load(tmp_path, color="gray").X.shape == (2, 1, 4, 5)
    (tmp_path / "b.png").unlink()
    assert load(tmp_path, color="rgb").X.shape == (1, 3, 4, 5)


def test_folder_of_dark_images_keeps_its_8_bit_scale(tmp_path):
    save_image(tmp_path / "a.png", np.full((4, 4), 3, np.uint8))
    assert load(tmp_path).pixel_range == (0, 255)


def test_folder_of_16_bit_images(tmp_path):
    deep = np.array([[0, 1000], [40000, 65535]], np.uint16)
    save_image(tmp_path / "a.png", deep)
    data = load(tmp_path)
    assert data.pixel_range == (0, 65535)
    np.testing.assert_array_equal(data.X[0, 0], deep)
    save_image(tmp_path / "b.png", pixels(2, 2))
    with pytest.raises(ValueError, match="mixture"):
        load(tmp_path)


def test_folder_of_mixed_sizes(tmp_path):
    save_image(tmp_path / "a.png", pixels(4, 4))
    save_image(tmp_path / "b.png", pixels(6, 5))
    with pytest.raises(ValueError, match=r"b\.png.*resize=.*\(4, 4\) as in a\.png, got \(6, 5\)"):
        load(tmp_path)
    assert load(tmp_path, resize=(3, 7)).X.shape == (2, 1, 3, 7)


def test_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"color.*'purple'"):
        load(tmp_path, color="purple")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG, allegedly")
    with pytest.raises(ValueError, match=r"broken\.png: not a readable image"):
        load(tmp_path)


# -- files --


def test_npy(tmp_path):
    path = tmp_path / "faces.npy"
    np.save(path, pixels(4, 6, 5))
    data = load(path)
    assert (data.name, data.X.shape, data.pixel_range) == ("faces", (4, 1, 6, 5), (0, 255))
    assert load(str(path), labels=[0, 0, 1, 1], name="x").name == "x"


@pytest.mark.parametrize(
    ("sample_key", "label_key"), [("images", "labels"), ("X", "y"), ("fea", "gnd"), ("data", "target")]
)
def test_npz(tmp_path, sample_key, label_key):
    arrays = {label_key: np.array([2, 0, 1]), sample_key: pixels(3, 6, 5)}
    np.savez(tmp_path / "a.npz", other=np.ones(2), **arrays)
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.X[:, 0], arrays[sample_key])
    assert data.labels.tolist() == [2, 0, 1]
    np.savez(tmp_path / "b.npz", **{sample_key: arrays[sample_key]}, other=np.ones(2))
    assert load(tmp_path / "b.npz").labels is None


def test_npz_with_a_split(tmp_path):
    train, test = pixels(3, 6, 5), pixels(2, 6, 5)
    np.savez(tmp_path / "a.npz", x_test=test, y_test=[3, 4], x_train=train, y_train=[0, 1, 2])
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.X[:, 0], np.concatenate([train, test]))
    assert data.labels.tolist() == [0, 1, 2, 3, 4]


def test_npz_of_one_array_of_any_name(tmp_path):
    np.savez(tmp_path / "a.npz", anything=pixels(3, 4))
    assert load(tmp_path / "a.npz").X.shape == (3, 4)
    np.savez(tmp_path / "b.npz", this=pixels(3, 4), that=pixels(3, 4))
    with pytest.raises(ValueError, match="got that, this"):
        load(tmp_path / "b.npz")


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", X=np.array([[1], None], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ValueError, match="not a readable"):
            load(tmp_path / name)


def test_broken_files(tmp_path):
    for name in ("a.npy", "a.npz", "a.mat"):
        (tmp_path / name).write_bytes(b"nonsense" * 40)
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            load(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            load(tmp_path / name)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"\.npz or \.mat, got 'a\.csv'"):
        load(tmp_path / "a.csv")


def test_mat_images_are_turned_upright(tmp_path):
    upright = pixels(3, 5, 5)
    savemat(tmp_path / "a.mat", {"fea": upright.transpose(0, 2, 1).reshape(3, 25), "gnd": [[1], [2], [1]]})
    data = load(tmp_path / "a.mat")
    np.testing.assert_array_equal(data.X[:, 0], upright)
    assert data.labels.tolist() == [1, 2, 1]


def test_mat_images_that_are_not_square(tmp_path):
    upright = pixels(3, 6, 5)
    savemat(tmp_path / "a.mat", {"fea": upright.transpose(0, 2, 1).reshape(3, 30)})
    assert load(tmp_path / "a.mat").X.shape == (3, 30)
    data = load(tmp_path / "a.mat", image_shape=(6, 5))
    np.testing.assert_array_equal(data.X[:, 0], upright)
    assert data.labels is None


def test_mat_that_is_not_read(tmp_path):
    savemat(tmp_path / "a.mat", {"other": np.ones((2, 2))})
    with pytest.raises(ValueError, match="named fea"):
        load(tmp_path / "a.mat")
    # The 128 byte header of a version 7.3 file: text, then version 0x0200 and the byte order.
    (tmp_path / "b.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"7\.3 files \(HDF5\) are not read; .*'-v7'"):
        load(tmp_path / "b.mat")


@pytest.mark.parametrize(
    ("name", "shape", "pixel_range", "classes"),
    [
        ("orl_32x32.mat", (400, 1, 32, 32), (0, 255), 40),
        ("coil20_32x32.mat", (1440, 1, 32, 32), (0, 1), 20),
        ("orl_112x92.npz", (400, 1, 112, 92), (0, 255), 40),
        ("coil100_32x32.npz", (7168, 1, 32, 32), (0, 255), 100),
    ],
)
def test_published_files(data_folder, name, shape, pixel_range, classes):
    data = load(data_folder / name)
    assert (data.X.shape, data.pixel_range) == (shape, pixel_range)
    assert len(np.unique(data.labels)) == classes
