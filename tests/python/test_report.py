"""The run directory: formats that any reader opens, nothing half-written, plots that are pictures."""

import csv
import json

import numpy as np
import pytest
import scipy.sparse
from dsclust import report
from dsclust.metrics import make_record
from PIL import Image


def contents(n=24, sparse=False, with_images=True, **changes):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    W = rng.random((n, n))
    W = W + W.T
    arguments = {
        "labels": labels,
        "coefficients": scipy.sparse.csr_array(W > 1.5, dtype=np.float32) if sparse else W.astype(np.float32),
        "affinity": scipy.sparse.csr_array(W * (W > 1)) if sparse else W,
        "method": make_record("BDSC", labels, labels, 1.0),
        "baselines": [make_record("k-means", labels, None, 0.1)],
        "config": {"seed": 0, "data": {"name": "x"}},
        "pretraining": [{"epoch": 1, "rmse": 0.5}, {"epoch": 2, "rmse": 0.25}],
        "history": [{"epoch": 1, "loss": 2.0, "reconstruction": 2.0, "coefficients": 0.0}],
        "diagnostics": {"stability": 0.5},
        "images": rng.random((n, 1, 6, 5)) if with_images else None,
    }
    return {**arguments, **changes}


@pytest.mark.parametrize("sparse", [False, True])
def test_files_read_back_without_pickle(tmp_path, sparse):
    given = contents(sparse=sparse)
    out = report.write_run(tmp_path / "new" / "run", **given)
    with (out / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["index"]), int(r["label"])) for r in rows] == list(enumerate(given["labels"]))
    for name in ("coefficients", "affinity"):
        if sparse:
            read = scipy.sparse.load_npz(out / f"{name}.npz").toarray()
            np.testing.assert_array_equal(read, given[name].toarray())
        else:
            with np.load(out / f"{name}.npz", allow_pickle=False) as file:
                np.testing.assert_array_equal(file[name], given[name])
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["method"], metrics["acc"]) == ("BDSC", 1.0)
    assert metrics["baselines"][0]["acc"] is None
    assert metrics["diagnostics"] == {"stability": 0.5}
    assert list(metrics["baselines"][0]) == list(given["method"])
    config = json.loads((out / "config.json").read_text())
    assert config["seed"] == 0
    assert {"python", "torch", "numpy", "scipy", "scikit-learn", "dsc-ext"} <= set(config["versions"])
    history = json.loads((out / "history.json").read_text())
    assert history["pretraining"] == given["pretraining"]
    assert history["training"] == given["history"]
    assert report.is_complete(out)


def test_a_closed_form_has_no_loss_to_draw(tmp_path):
    out = report.write_run(tmp_path, **contents(pretraining=[], history=[]))
    assert not (out / "plots" / "loss.png").exists()


@pytest.mark.parametrize("images", [True, False])
def test_plots_are_pictures_and_image_grids_need_images(tmp_path, images):
    out = report.write_run(tmp_path, **contents(with_images=images))
    names = {"loss.png", "affinity.png"} | ({"clusters.png"} if images else set())
    assert {p.name for p in (out / "plots").iterdir()} == names
    for name in names:
        with Image.open(out / "plots" / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 100
            assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize("images", [np.zeros((24, 3, 7, 9)), np.ones((24, 1, 4, 4))])
def test_constant_images_of_either_kind_are_drawn(images):
    assert report.clusters_figure(images, np.arange(24) % 5).axes


def test_many_clusters_and_samples_are_drawn():
    labels = np.arange(1200) % 60
    W = scipy.sparse.random_array((1200, 1200), density=0.01, random_state=0).tocsr()
    assert report.affinity_figure(W + W.T, labels).axes
    figure = report.clusters_figure(np.random.default_rng(0).random((1200, 1, 8, 8)), labels)
    assert "40 largest of 60" in figure.axes[0].get_title()


def test_affinity_is_sorted_and_averaged():
    W = np.kron(np.eye(2), np.ones((4, 4)))
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    shuffled = np.empty_like(W)
    shuffled[np.ix_(order, order)] = W
    np.testing.assert_allclose(report._averaged(shuffled, order, 2), np.eye(2))
    sparse = scipy.sparse.csr_array(shuffled)
    np.testing.assert_allclose(report._averaged(sparse, order, 2), np.eye(2))
    np.testing.assert_allclose(report._averaged(shuffled, order, 100), W)


def test_a_failure_leaves_no_half_written_file_and_no_claim_of_success(tmp_path):
    report.write_run(tmp_path, **contents())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        report.write_run(tmp_path, **contents(config={"lr": float("nan")}))
    assert (tmp_path / "config.json").read_bytes() == before
    assert not report.is_complete(tmp_path)
    assert not [p for p in tmp_path.rglob(".*")]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"coefficients": np.zeros((3, 3))}, r"coefficients must be \(N, N\) .* = 24, got \(3, 3\)"),
        ({"affinity": np.zeros((24, 3))}, r"affinity must be \(N, N\)"),
        ({"images": np.zeros((24, 2, 5, 5))}, r"images must be \(24, 1 or 3, height, width\)"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        report.write_run(tmp_path / "run", **contents(**changes))
    assert not (tmp_path / "run").exists()
