"""BDSC against full-batch DSC-Net on ORL and COIL-20: accuracy over batch splits and seeds.

    python benchmarks/bdsc_orl_coil20.py --data FOLDER

FOLDER (or the environment variable DSC_DATA) holds orl_32x32.mat and coil20_32x32.mat as distributed with DSC-Net:
`fea` and `gnd`. Per seed the autoencoder is pre-trained once and every number of batches k starts from a copy of it;
k = 1 is DSC-Net. The last epoch counts, labels are read for the scores alone. Results go to
benchmarks/results/bdsc_orl_coil20.json after every run; runs found there with the same settings are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from dsc.baselines import run_baselines
from dsc.clustering import cluster_coefficients
from dsc.data import Dataset, load
from dsc.metrics import evaluate
from dsc.presets import get_preset
from dsc.trainer import TrainConfig, TrainResult, fit, pretrain

RESULTS = Path(__file__).parent / "results" / "bdsc_orl_coil20.json"
# data set: file, clusters, numbers of batches per epoch, seeds
PLAN = {
    "orl": ("orl_32x32.mat", 40, (1, 4), range(5)),
    "coil20": ("coil20_32x32.mat", 20, (1, 4, 8), range(3)),
}
SCORES = ("acc", "nmi", "ari")
BASELINE_SEEDS = range(5)


def configuration(name: str, n_samples: int, n_clusters: int, seed: int, k: int) -> TrainConfig:
    batch_size = None if k == 1 else -(-n_samples // k)
    return TrainConfig(get_preset(name, n_clusters), n_clusters, batch_size=batch_size, seed=seed)


def scores(data: Dataset, result: TrainResult, config: TrainConfig, affinity: str) -> dict[str, float]:
    assert data.labels is not None
    preset = config.preset
    labels, _ = cluster_coefficients(
        result.coefficients,
        config.n_clusters,
        affinity=affinity,
        threshold=preset.threshold,
        subspace_dim=preset.subspace_dim,
        power=preset.power,
        unit_diagonal=preset.unit_diagonal,
        seed=config.seed,
    )
    figures = evaluate(data.labels, labels)
    return {score: round(figures[score], 4) for score in SCORES}


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source tree"


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) over seeds for each data set and k."""
    rows = []
    for name, k in sorted({(r["data"], r["k"]) for r in runs}):
        chosen = [r for r in runs if (r["data"], r["k"]) == (name, k)]
        row: dict[str, Any] = {"data": name, "k": k, "seeds": len(chosen)}
        for score in SCORES:
            values = [r["post"][score] for r in chosen]
            row[score] = round(mean(values), 4)
            row[f"{score}_sd"] = round(stdev(values), 4) if len(values) > 1 else None
            row[f"{score}_plain"] = round(mean(r["plain"][score] for r in chosen), 4)
        row["seconds"] = round(mean(r["seconds"] for r in chosen), 1)
        row["pretrain_seconds"] = round(mean(r["pretraining"]["seconds"] for r in chosen), 1)
        rows.append(row)
    return rows


def baselines(name: str, data: Dataset, n_clusters: int) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of the baselines on the raw pixels, a row each."""
    found = [run_baselines(data.X.reshape(data.n_samples, -1), n_clusters, s, data.labels) for s in BASELINE_SEEDS]
    rows = []
    for records in zip(*found, strict=True):
        row: dict[str, Any] = {"data": name, "method": records[0]["method"], "seeds": len(records)}
        for score in SCORES:
            values = [record[score] for record in records]
            row[score], row[f"{score}_sd"] = round(mean(values), 4), round(stdev(values), 4)
        rows.append(row)
    return rows


def write(runs: list[dict[str, Any]], raw: list[dict[str, Any]]) -> None:
    packages = ("dsc-ext", "torch", "numpy", "scipy", "scikit-learn")
    content = {
        "what": "BDSC, index replacement, live batch rows; k = 1 is full-batch DSC-Net; last epoch; "
        "post = thrC and post-processing of DSC-Net, plain = |C| + |C|^T; both with seeded discretisation",
        "versions": {"python": platform.python_version(), **{p: installed(p) for p in packages}},
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "summary": summarise(runs),
        "baselines": raw,
        "runs": runs,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DSC_DATA"), help="folder of the .mat files")
    parser.add_argument("--only", choices=PLAN, help="one data set")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data or DSC_DATA: expected the folder of orl_32x32.mat and coil20_32x32.mat")

    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    raw: list[dict[str, Any]] = []
    for name, (file, n_clusters, splits, seeds) in PLAN.items():
        if args.only not in (None, name):
            continue
        data = load(args.data / file)
        digest = hashlib.sha256(np.ascontiguousarray(data.X).tobytes()).hexdigest()
        for seed in seeds:
            configs = {k: configuration(name, data.n_samples, n_clusters, seed, k) for k in splits}
            identity = {k: {"data_sha256": digest, **json.loads(json.dumps(asdict(c)))} for k, c in configs.items()}
            missing = [k for k in splits if identity[k] not in [r["config"] for r in runs]]
            if not missing:
                continue
            start = time.perf_counter()
            autoencoder, history = pretrain(data, configs[1])
            pretraining = {
                "epochs": len(history),
                "rmse": round(history[-1]["rmse"], 5),
                "seconds": round(time.perf_counter() - start, 1),
            }
            print(f"{name} seed {seed}: pre-training {pretraining}", flush=True)
            for k in missing:
                start = time.perf_counter()
                result = fit(data, configs[k], autoencoder=copy.deepcopy(autoencoder))
                seconds = round(time.perf_counter() - start, 1)
                run = {
                    "data": name,
                    "seed": seed,
                    "k": k,
                    **{kind: scores(data, result, configs[k], kind) for kind in ("post", "plain")},
                    "seconds": seconds,
                    "pretraining": pretraining,
                    "last_epoch": result.history[-1],
                    "config": identity[k],
                }
                print(f"{name} seed {seed} k {k}: {run['post']} plain {run['plain']} {seconds} s", flush=True)
                kept = [r for r in runs if (r["data"], r["seed"], r["k"]) != (name, seed, k)]
                runs = sorted([*kept, run], key=lambda r: (r["data"], r["seed"], r["k"]))
                write(runs, raw)
        raw += baselines(name, data, n_clusters)
    write(runs, raw)
    for row in raw:
        print(f"{row['data']:7} {row['method']:18}  ACC {row['acc']:.4f} ± {row['acc_sd']}  NMI {row['nmi']:.4f}")
    for row in summarise(runs):
        print(
            f"{row['data']:7} k={row['k']}  ACC {row['acc']:.4f} ± {row['acc_sd']}  "
            f"NMI {row['nmi']:.4f} ± {row['nmi_sd']}  ARI {row['ari']:.4f}  "
            f"{row['seconds']:.0f} s + {row['pretrain_seconds']:.0f} s  ({row['seeds']} seeds)"
        )


if __name__ == "__main__":
    main()
