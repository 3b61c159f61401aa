"""From records to what people read: tables of mean ± sd, figures, and one page of all experiments.

Owns the layout of `docs/results.md`; every number in it comes from the files of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from dsclust.experiments.experiment import Data, Experiment, Published
from dsclust.experiments.records import Record, arms_of, baselines_of, read_records
from dsclust.files import replacing

SCORES = ("acc", "nmi", "ari")
HEADS = (
    "",
    "chosen",
    "seeds",
    "ACC",
    "NMI",
    "ARI",
    "ACC spectral",
    "ACC held out",
    "µs each",
    "stability",
    "drift",
    "parameters",
    "seconds",
    "C",
    "graph",
    "labels",
    "cpu s",
    "peak MB",
)

HEAD = """# Results

Written by `dsclust experiment NAME --data FOLDER` from the records in `docs/results/*.json`: every run with its
settings, seed, versions and scores. Mean ± standard deviation over seeds; last epoch, no setting and no epoch picked
with labels. Baselines have neither a network nor a tuned setting and get the same input. A published figure is the
source's own, on its own terms. Seconds are of one run, pre-training + training and labels, at times beside other work,
on one CPU thread where the command names no other number; peak memory is that of its process, some 400 MB of it PyTorch
and SciPy.
"""


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Write mean ± sd, as .912 ± .004; the mean alone of one value."""

    def short(value: float) -> str:
        text = f"{value:.{digits}f}"
        return text[1:] if text.startswith("0.") else text

    return short(mean(values)) + (f" ± {short(stdev(values))}" if len(values) > 1 else "")


def table(experiment: Experiment, records: list[Record], data: Data) -> str:
    """Write a table in Markdown: an arm a row, as they are declared, then baselines, then what was published."""
    by_arm = arms_of(records, data.name)
    rows = [
        {**_arm_row(arm.label, by_arm[arm.label]), **(_stages(by_arm[arm.label]) if experiment.stages else {})}
        for arm in experiment.arms
        if arm.data == data and arm.label in by_arm
    ]
    for name, found in baselines_of(records, data.name).items():
        scores = {score.upper(): spread([one[score] for one in found]) for score in SCORES}
        seconds = f"{mean(one['seconds'] for one in found):.0f}"
        rows.append({"": f"{name}, same input", "seeds": str(len(found)), **scores, "seconds": seconds})
    rows += [_published_row(one) for one in experiment.published if one.data == data]
    heads = [head for head in HEADS if any(head in row for row in rows)]
    lines = [heads, ["---"] * len(heads), *([row.get(head, "–") for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _stages(found: list[Record]) -> dict[str, str]:
    """Return wall seconds of each stage, and those of all cores; features come from the cache."""
    names = {"C": "training", "graph": "affinity", "labels": "labels"}
    row = {head: f"{mean(r['stages'][stage] for r in found):.1f}" for head, stage in names.items()}
    return {**row, "cpu s": f"{mean(r['cpu_seconds'] for r in found):.0f}"}


def _arm_row(label: str, found: list[Record]) -> dict[str, str]:
    row = {"": label, "seeds": str(len(found)), "parameters": f"{found[0]['parameters']:,}"}
    row |= {score.upper(): spread([r["scores"][score] for r in found]) for score in SCORES}
    # Where labels are those of a classifier, the ones it learned from.
    if any(r["spectral_scores"] != r["scores"] for r in found):
        row["ACC spectral"] = spread([r["spectral_scores"]["acc"] for r in found])
    if "chosen" in found[0]:
        row["chosen"] = ", ".join(sorted({f"{r['chosen']['method']} on {r['chosen']['features']}" for r in found}))
    if "held_out" in found[0]:
        row["ACC held out"] = spread([r["held_out"]["acc"] for r in found])
        row["µs each"] = f"{mean(r['held_out']['microseconds_per_sample'] for r in found):.0f}"
    if "stability" in found[0]:
        row["stability"] = f"{mean(r['stability'] for r in found):.2f}".removeprefix("0")
    if "drift" in found[0]["last_epoch"]:
        row["drift"] = f"{mean(r['last_epoch']['drift'] for r in found):.2g}"
    row["seconds"] = f"{mean(r['seconds'] for r in found):.0f}"
    if "pretraining" in found[0]:
        row["seconds"] = f"{mean(r['pretraining']['seconds'] for r in found):.0f} + {row['seconds']}"
    row["peak MB"] = f"{mean(r['peak_bytes'] for r in found) / 1e6:.0f}"
    return row


def _published_row(one: Published) -> dict[str, str]:
    scores = {"ACC": one.acc, "NMI": one.nmi, "ARI": one.ari, "ACC held out": one.held_out}
    known = {head: spread([value]) for head, value in scores.items() if value is not None}
    return {"": f"published: {one.label} ({one.source})", "seeds": "", **known}


def section(experiment: Experiment, records: list[Record], figure: str) -> str:
    """Write one experiment in Markdown: question, command, tables, figure, reading."""
    threads = max((record["threads"] for record in records), default=1)
    command = f"dsclust experiment {experiment.name} --data FOLDER" + (f" --threads {threads}" if threads > 1 else "")
    parts = [f"## {experiment.title}", experiment.question, f"`{command}`"]
    measured = {record["data"] for record in records}
    for data in (data for data in experiment.data if data.name in measured):
        parts += [f"**{data.name}**", table(experiment, records, data)]
    parts.append(f"![{experiment.title}]({figure})")
    if experiment.reading:
        parts.append(experiment.reading.strip())
    return "\n\n".join(parts)


def write_page(experiments: Iterable[Experiment], page: Path, folder: Path) -> None:
    """Write `page` from the records in `folder`, NAME.json each, and draw NAME.png beside them."""
    sections = []
    for experiment in experiments:
        records = read_records(folder / f"{experiment.name}.json", experiment.name)
        if not records:
            continue
        with replacing(folder / f"{experiment.name}.png") as temporary:
            experiment.figure(records).savefig(temporary, dpi=110)
        sections.append(section(experiment, records, f"{folder.name}/{experiment.name}.png"))
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as temporary:
        temporary.write_text("\n".join([HEAD, "\n\n".join(sections), ""]), encoding="utf-8")
