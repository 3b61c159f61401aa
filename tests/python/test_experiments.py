"""Experiments: runs are kept, shared and not repeated; the page says what the records say."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import dsclust.experiments.runner as runner
import numpy as np
import pytest
from dsclust.baselines import BASELINES
from dsclust.experiments import get_experiment
from dsclust.experiments.experiment import Arm, Data, Experiment, Published
from dsclust.experiments.figures import bars, heat_map, over_batches
from dsclust.experiments.records import read_records
from dsclust.experiments.results import section, spread, write_page
from dsclust.experiments.runner import run_experiment
from dsclust.features import FeatureConfig
from dsclust.methods.bdsc import BDSCMethod
from dsclust.methods.ridge import RidgeMethod
from dsclust.methods.sscn import SSCNMethod
from dsclust.names import ExperimentName, words

DATA = Data("patterns", "patterns.npz", 3, (0.0, 1.0), part="train", held_out="test")
QUICK = {"epochs": 2}
EXPERIMENT = Experiment(
    name="small",
    title="Small",
    question="Does it run?",
    arms=(
        Arm("BDSC, 1 batch", DATA, BDSCMethod(), 1, QUICK),
        Arm("BDSC, 2 batches", DATA, BDSCMethod(), 2, QUICK),
        Arm("SSCN", DATA, SSCNMethod(), None, QUICK),
    ),
    seeds=2,
    figure=lambda records: bars(records, ("patterns",)),
    published=(Published("theirs", DATA, 0.5, None, None, "a paper"),),
    baseline_seeds=1,
    reading="It runs.",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    patterns = rng.random((3, 8, 8))
    parts = {}
    for part, n in (("train", 45), ("test", 15)):
        y = np.arange(n) % 3
        parts[f"x_{part}"] = (patterns[y] * rng.uniform(0.6, 1, (n, 1, 1))).astype(np.float32)
        parts[f"y_{part}"] = y
    path = tmp_path_factory.mktemp("data")
    np.savez(path / "patterns.npz", **parts)
    return path


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    shown = []
    records = run_experiment(
        EXPERIMENT,
        folder,
        out / "small.json",
        cache=out / "cache",
        seeds=1,
        show=lambda done, count, record: shown.append((done, count, record["label"])),
    )
    return out, records, shown


def test_every_arm_and_the_baselines_leave_a_record(finished):
    out, records, shown = finished
    assert {r["label"] for r in records} == {"BDSC, 1 batch", "BDSC, 2 batches", "SSCN", "baselines"}
    assert [done for done, _, _ in shown] == [1, 2, 3, 4]
    assert all(count == 4 for _, count, _ in shown)
    kept = read_records(out / "small.json", "small")
    assert sorted(map(json.dumps, kept)) == sorted(map(json.dumps, records))
    for record in records:
        if record["label"] != "baselines":
            assert set(record["scores"]) == {"acc", "nmi", "ari"}
            assert 0 <= record["held_out"]["acc"] <= 1
            assert record["peak_bytes"] > 1e8
            assert record["epochs"] == 2
    assert len(list((out / "cache").glob("*.safetensors"))) == 1  # one autoencoder for all three arms


def test_what_is_there_is_not_run_again_and_new_seeds_are(finished, folder):
    out, records, _ = finished
    shown = []

    def show(done, count, record):
        shown.append((done, count, record["label"], record["seed"]))

    again = run_experiment(EXPERIMENT, folder, out / "small.json", cache=out / "cache", seeds=1, show=show)
    assert shown == []
    assert len(again) == len(records)
    one = replace(EXPERIMENT, arms=EXPERIMENT.arms[:1])
    run_experiment(one, folder, out / "small.json", cache=out / "cache", seeds=2, show=show)
    assert shown == [(3, 3, "BDSC, 1 batch", 1)]


def test_the_page_has_the_numbers_of_the_records(finished, tmp_path):
    out, records, _ = finished
    text = section(EXPERIMENT, records, "small.png")
    by_label = {r["label"]: r for r in records if "scores" in r}
    for label, record in by_label.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
        assert spread([record["scores"]["acc"]]) in row
        assert spread([record["held_out"]["acc"]]) in row
    assert "| published: theirs (a paper) |" in text
    assert "k-means, same input" in text
    assert text.endswith("It runs.")
    assert "`dsclust experiment small --data FOLDER`" in text
    on_two = section(EXPERIMENT, [{**record, "threads": 2} for record in records], "small.png")
    assert "`dsclust experiment small --data FOLDER --threads 2`" in on_two
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    write_page([EXPERIMENT], tmp_path / "results.md", out)
    assert (out / "small.png").stat().st_size > 1000
    assert "## Small" in (tmp_path / "results.md").read_text()


def test_figures_take_the_records(finished):
    _, records, _ = finished
    assert over_batches([r for r in records if r["label"] != "SSCN"], ("patterns",)).axes
    cells = [r for r in records if r["label"].startswith("BDSC")]
    assert heat_map(cells, "patterns", "zero_diagonal").axes


def test_mean_and_spread_are_written_as_shares():
    assert spread([0.5]) == ".500"
    assert spread([0.5, 0.7]) == ".600 ± .141"
    assert spread([1.0, 1.0]) == "1.000 ± .000"


def test_every_file_that_declares_an_experiment_is_named():
    folder = Path(runner.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py") if "\nEXPERIMENT = " in path.read_text()}
    assert files == set(words(ExperimentName))


@pytest.mark.parametrize("name", words(ExperimentName))
def test_declared_experiments_have_arms_of_their_own_names(name):
    experiment = get_experiment(name)
    assert experiment.name == name
    labels = [(arm.label, arm.data.name) for arm in experiment.arms]
    assert len(set(labels)) == len(labels)
    assert {one.data for one in experiment.published} <= set(experiment.data)


def test_a_missing_data_set_and_foreign_records_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"experiment: name: expected one of table1, .*got 'table9'"):
        get_experiment("table9")
    with pytest.raises(FileNotFoundError, match=r"expected patterns\.npz in"):
        run_experiment(EXPERIMENT, tmp_path, tmp_path / "r.json", cache=tmp_path)
    (tmp_path / "r.json").write_text('{"experiment": "other", "format": 1, "records": []}')
    with pytest.raises(ValueError, match=r"expected records of the experiment small .*'other'"):
        run_experiment(EXPERIMENT, folder, tmp_path / "r.json", cache=tmp_path)


def test_peak_memory_of_a_run_is_not_that_of_its_parent():
    held = np.ones(2**30, np.uint8)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(runner._peak_bytes) < held.nbytes


def test_closed_forms_on_features_of_a_part_beside_peers(folder, tmp_path):
    whole = replace(DATA, part=None, held_out=None)
    some = replace(DATA, name="some").as_features("components", FeatureConfig(pca=4))
    experiment = Experiment(
        name="closed",
        title="Closed",
        question="?",
        arms=(Arm("ridge", some, RidgeMethod(), None), Arm("free", whole, None, None)),
        seeds=1,
        figure=lambda records: bars(records, (some.name, some.name, some.name), columns=2),
        peers={"k-means again": BASELINES["k-means"]},  # what a run is given has to be importable in its process
        stages=True,
    )
    records = run_experiment(experiment, folder, tmp_path / "closed.json", cache=tmp_path)
    arm, free = (r for r in records if "scores" in r)
    assert free["method"] == {"name": "auto"}
    assert free["chosen"]["method"] == "ridge"
    assert arm["data"] == "some components"
    assert arm["epochs"] == 0
    assert 0 <= arm["stability"] <= 1
    baselines = next(r for r in records if r["label"] == "baselines" and r["data"] == some.name)["baselines"]
    # The arm is the ridge baseline already.
    assert [b["method"] for b in baselines] == ["k-means", "k-means, unit rows", "5-NN graph", "k-means again"]
    assert baselines[-1]["acc"] == baselines[0]["acc"]
    text = section(experiment, records, "closed.png")
    heads, row = (next(line for line in text.splitlines() if line.startswith(start)) for start in ("|  |", "| ridge |"))
    for head in ("C", "graph", "labels", "cpu s", "stability", "ACC held out", "µs each"):
        assert f" {head} |" in heads
    assert heads.count("|") == row.count("|")
    assert len(experiment.figure(records).axes) == 4

    thin = whole.thinned(5)
    assert thin.name == "patterns, 5 a class"
    data, _ = thin.read(folder)
    assert np.bincount(data.labels).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(data.X, thin.read(folder)[0].X)


@pytest.mark.parametrize("name", words(ExperimentName))
def test_every_record_on_file_belongs_to_a_run_as_it_is_declared(name):
    """A setting that is renamed takes its records along: otherwise hours of runs would be repeated."""
    records = read_records(Path(__file__).parents[2] / "docs" / "results" / f"{name}.json", name)
    experiment = get_experiment(name)
    declared = {runner._identity(run.settings()) for run in runner._runs(experiment, 100)}
    assert records and {runner._identity(record) for record in records} <= declared
