"""The command line: `dsclust fit`, `dsclust predict`, `dsclust methods`, `dsclust presets`, `dsclust experiment`,
`dsclust --version`.

Owns options, progress, messages and exit codes: 0 done, 2 wrong input (one line, no traceback), 130
stopped by Ctrl-C or SIGTERM (with the command that resumes). All work is done by `dsclust.pipeline.fit_method`,
the baselines and the report; heavy modules load when a command runs, so that --help is quick.
"""

from __future__ import annotations

import shlex
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

import dsclust

if TYPE_CHECKING:
    from dsclust.auto import Choice
    from dsclust.data import Dataset
    from dsclust.metrics import Record
    from dsclust.parts.method import Method
    from dsclust.pipeline import FitResult
    from dsclust.progress import Progress

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"

app = typer.Typer(
    name="dsclust",
    help="Deep subspace clustering of images and features.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# Mirrors of what the modules below accept, which load only when a command runs; tests hold them together.
MethodName = Literal["auto", "ridge", "ssc", "bdsc", "dscnet", "clbdsc", "sscn", "senet", "energy"]
ExperimentName = Literal[
    "table1", "figure4", "consistency", "anchor", "sscn", "features", "auto", "clbdsc-vs-bdsc", "scale"
]
PresetName = Literal["orl", "coil20", "coil100", "eyaleb", "mnist", "digits"]
AffinityName = Literal["post", "plain", "sparse", "neighbors"]
AssignName = Literal["discretize", "kmeans", "cluster_qr"]
ColorName = Literal["auto", "gray", "rgb"]


def _integers(option: str, text: str | None, counts: tuple[int, ...], form: str) -> Any:
    """`32x32` or `1,48,42` as a tuple of positive integers."""
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or min(values) < 1:
        raise ValueError(f"{option}: expected {form}, got {text!r}")
    return values


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError(f"--pixel-range: expected LOW,HIGH such as 0,255, got {text!r}")
    return low, high


@contextmanager
def _one_line_warnings(console: Console) -> Iterator[list[str]]:
    """Warnings as `warning: text`, without file and line; the list that is yielded gets every text."""
    texts: list[str] = []
    with warnings.catch_warnings():

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            texts.append(str(message))
            console.print(f"warning: {message}", style="yellow", markup=False, highlight=False)

        warnings.showwarning = show
        yield texts


class _Lines:
    """Progress for logs and pipes: plain lines, the first epoch, each tenth of a phase and every 30 s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase = ""
        self.shown = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, title: str) -> None:
        self.console.print(title, markup=False, highlight=False)

    def epoch(self, progress: Progress) -> None:
        if progress.note:
            self.step(progress.note)
            return
        now = time.monotonic()
        if progress.phase != self.phase:
            self.phase, self.began, self.first, self.tenth = progress.phase, now, progress.epoch, -1
        tenth = 10 * progress.epoch // progress.epochs
        if tenth == self.tenth and now - self.shown < 30:
            return
        self.tenth, self.shown = tenth, now
        done = progress.epoch - self.first
        left = (now - self.began) / max(done, 1) * (progress.epochs - progress.epoch)
        title, figure = _describe(progress)
        eta = f"  ETA {_clock(left)}" if done else ""
        self.console.print(
            f"{title} {progress.epoch}/{progress.epochs}  {figure}{eta}",
            markup=False,
            highlight=False,
        )


class _Bars:
    """Progress on a terminal: a bar a phase, with loss and remaining time."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16),  # all of it fits 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[figure]:<14}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def _finish(self) -> None:
        for task in self.bars.tasks:
            if not task.finished:  # pre-training ends when its error does, not at the last epoch
                self.bars.update(task.id, total=max(task.completed, 1))

    def step(self, title: str) -> None:
        self._finish()
        self.bars.console.print(title, markup=False, highlight=False)

    def epoch(self, progress: Progress) -> None:
        if progress.note:
            self.step(progress.note)
            return
        title, figure = _describe(progress)
        if title not in self.tasks:
            self._finish()
            self.tasks[title] = self.bars.add_task(title, total=progress.epochs, figure="")
        self.bars.update(self.tasks[title], completed=progress.epoch, figure=figure)


def _describe(progress: Progress) -> tuple[str, str]:
    if progress.phase in ("features", "views"):
        return progress.phase, ""
    if progress.phase == "pretrain":
        return "pre-training", f"rmse {progress.metrics['rmse']:.4f}"
    return "training", f"loss {progress.metrics['loss']:.4g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _output_directory(out: Path | None, resume: bool, name: str) -> Path:
    from dsclust.report import is_complete

    if out is None:
        if resume:
            raise ValueError("--resume: expected --out with the directory of the run to go on with")
        stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        suffixes = ("", *(f"-{i}" for i in range(2, 100)))
        candidates = (stem.with_name(stem.name + suffix) for suffix in suffixes)
        return next(path for path in candidates if not path.exists())
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a directory, got the file {out}")
    if resume:
        if not is_complete(out) and not (out / CHECKPOINT).is_file():
            raise ValueError(f"--resume: {out} holds no unfinished run")
    elif out.is_dir() and any(out.iterdir()):
        if (out / CHECKPOINT).is_file() and not is_complete(out):
            raise ValueError(f"--out: {out} holds an unfinished run; add --resume to go on with it")
        raise ValueError(f"--out: {out} is not empty; name another directory")
    return out


def _cluster_count(data: Dataset, n_clusters: int | None) -> int:
    if n_clusters is not None:
        return n_clusters
    if data.labels is None:
        raise ValueError("--n-clusters: expected a number, for the data come without labels")
    return len(set(data.labels.tolist()))


def _method(name: str, settings: list[str]) -> Method:
    """The method called `name` with settings as `gradient=detach`."""
    from dsclust.methods import METHODS

    kinds: dict[str, type] = {field.name: type(field.default) for field in fields(METHODS[name])}
    values: dict[str, Any] = {}
    for text in settings:
        key, _, value = text.partition("=")
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise ValueError(f"--set: expected a setting of {name} ({known}) as NAME=VALUE, got {text!r}")
        try:
            values[key] = {"true": True, "false": False}[value] if kinds[key] is bool else kinds[key](value)
        except (KeyError, ValueError):
            wanted = {bool: "true or false", int: "an integer", float: "a number"}[kinds[key]]
            raise ValueError(f"--set: {key}: expected {wanted}, got {value!r}") from None
    return METHODS[name](**values)


def _reasons(choice: Choice) -> str:
    """What was chosen and why, in a line."""
    line = f"method {choice.method.name}, features {choice.features.kind}"
    if choice.cuts:
        cuts = ", ".join(f"{kind} {cut:.4f}" for kind, cut in choice.cuts.items())
        line += f" (normalized cut a cluster, smaller is better: {cuts})"
    if choice.missing:
        line += f"; for more to choose from, pip install 'dsc-ext[{','.join(choice.missing)}]'"
    return line


def _trust(result: FitResult) -> str:
    """What the clustering says of itself, without true labels."""
    return (
        f"stability {result.spectral.stability:.2f} of 1: how far the labels agree with those from fewer eigenvectors"
    )


def _comparison(records: list[Record], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("ACC", "NMI", "ARI", "seconds"):
        table.add_column(heading, justify="right")
    for record in records:
        figures = [record["acc"], record["nmi"], record["ari"]]
        table.add_row(
            record["method"],
            *("-" if figure is None else f"{figure:.4f}" for figure in figures),
            f"{record['seconds']:.1f}",
        )
    return table


def _settings(data: Dataset, source: str, n_clusters: int, seed: int, result: FitResult) -> dict[str, Any]:
    import torch

    config = result.train_config
    training = {**asdict(config), "method": config.method.settings()}
    weights = result.training.weights
    return {
        "data": {
            "source": source,
            "name": data.name,
            "n_samples": data.n_samples,
            "sample_shape": list(data.X.shape[1:]),
            "pixel_range": data.pixel_range,
            "labels_known": data.labels is not None,
        },
        "features": asdict(result.feature_config),
        "n_clusters": n_clusters,
        "seed": seed,
        "preset": result.train_config.preset.name,
        "training": training,
        "loss_weights": None if weights is None else asdict(weights),
        "labels": result.label_config.settings(),
        "seconds": result.seconds,
        "threads": torch.get_num_threads(),
    }


def _guarded(console: Console, resume_command: Callable[[], str | None]) -> Any:
    """Turns what a user can cause into one line and an exit code; a bug keeps its traceback."""

    @contextmanager
    def guard() -> Iterator[None]:
        from dsclust.features.backbones import MissingExtraError
        from dsclust.training.interrupt import DivergedError

        if owns_signals := threading.current_thread() is threading.main_thread():
            # What a scheduler sends before it kills: as Ctrl-C, so that a checkpoint is left and no child.
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        except KeyboardInterrupt:
            command = resume_command()
            hint = f"; go on with:\n  {command}" if command else "; nothing was saved"
            console.print(f"stopped{hint}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
        except (ValueError, TypeError, OSError, MemoryError, DivergedError, MissingExtraError) as error:
            text = " ".join(str(error).split())
            console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        finally:
            if owns_signals:
                signal.signal(signal.SIGTERM, before)

    return guard()


def _typed(context: typer.Context, leave_out: Iterable[str] = ()) -> list[str]:
    """The command as it was typed, by what is known of its options; those named in `leave_out` are not in it."""
    words = ["dsclust", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in leave_out or not str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            continue
        option, value = parameter.opts[0], context.params[name]
        if not option.startswith("-"):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                words += [option, str(each)]
    return words


@app.command()
def fit(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="'digits' (embedded), a folder of images, or a .npy, .npz or .mat file.",
            metavar="digits|PATH",
        ),
    ],
    n_clusters: Annotated[
        int | None,
        typer.Option("--n-clusters", "-k", min=1, help="Default: as many as the data have labels."),
    ] = None,
    method: Annotated[
        MethodName | None,
        typer.Option(
            help="See `dsclust methods`. Default: auto, a closed form on the features that suit it best; bdsc where a "
            "setting of training is given."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, as `dsclust methods` lists them.", metavar="NAME=VALUE"),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What the method gets: the samples as they are, wavelet scattering, or a frozen pre-trained network's "
            "rows. Default: raw, or with auto what cuts best. Kept in a cache, see DSCLUST_FEATURE_CACHE.",
            metavar="raw|scattering|efficientnet-lite0|timm:NAME",
        ),
    ] = None,
    feature_size: Annotated[
        str, typer.Option(help="Size that images are resampled to for features.", metavar="auto|FACTOR|HxW")
    ] = "auto",
    pca: Annotated[int | None, typer.Option(min=1, help="Keep so many principal components of the features.")] = None,
    center: Annotated[bool, typer.Option("--center", help="Subtract the mean of the features.")] = False,
    unit: Annotated[bool, typer.Option("--unit", help="Scale the features of each sample to unit length.")] = False,
    preset: Annotated[
        PresetName | None,
        typer.Option(help="Settings of a published data set, see `dsclust presets`."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples a step. Default: the method's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the preset's, or by size.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's, at full batch.")] = None,
    pretrain_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of autoencoder pre-training.")] = None,
    affinity: Annotated[
        AffinityName | None,
        typer.Option(
            help="DSC-Net's post-processing, |C| + |C|' as it is, its largest entries, or nearest rows of C. "
            "Default: the method's or the preset's."
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="post: share of each row of |C| to keep.")] = None,
    subspace_dim: Annotated[int | None, typer.Option(min=1, help="post: rank per cluster.")] = None,
    power: Annotated[float | None, typer.Option(help="post: exponent.")] = None,
    unit_diagonal: Annotated[
        bool | None, typer.Option(help="post: set the diagonal to 1 before the decomposition.")
    ] = None,
    assign_labels: Annotated[
        AssignName | None, typer.Option(help="Last step of spectral clustering. Default: the method's.")
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="Read rows as images: 32x32 or 3,32,32.", metavar="HxW")
    ] = None,
    pixel_range: Annotated[
        str | None, typer.Option(help="Scale of the values, such as 0,255.", metavar="LOW,HIGH")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="Folders: resample images to this size.", metavar="HxW")] = None,
    color: Annotated[ColorName, typer.Option(help="Folders: read images as gray or rgb.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seeds everything.")] = 0,
    baselines: Annotated[
        bool, typer.Option(help="Also run k-means, the 5-NN graph and ridge on the same input.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="New directory for the results. Default: runs/NAME-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all.")] = None,
) -> None:
    """Cluster a data set; write labels, matrices, metrics and plots to a directory."""
    from threadpoolctl import threadpool_limits

    messages = Console(stderr=True)
    place: list[Path] = []

    def resume_command() -> str | None:
        if not place or not (place[0] / CHECKPOINT).is_file():
            return None
        return shlex.join([*_typed(context, leave_out=("out", "resume")), "--out", str(place[0]), "--resume"])

    with _guarded(messages, resume_command), _one_line_warnings(messages) as warned:
        import torch

        from dsclust.baselines import BASELINES, run_baselines
        from dsclust.data import load
        from dsclust.features import FeatureConfig
        from dsclust.features.cache import default_cache
        from dsclust.metrics import make_record
        from dsclust.pipeline import cluster
        from dsclust.report import is_complete, write_run

        if threads is not None:
            torch.set_num_threads(threads)
        name = method or "auto"
        given_method = None if name == "auto" else _method(name, settings or [])
        if given_method is None and settings:
            raise ValueError("--set: expected none with --method auto; name the method")
        representation = FeatureConfig(features or "raw", feature_size, pca=pca, center=center, unit=unit)
        free = features is None and representation.changes_nothing
        dataset = load(
            data,
            image_shape=_integers("--image-shape", image_shape, (2, 3), "HxW or C,H,W"),
            pixel_range=_range(pixel_range),
            resize=_integers("--resize", resize, (2,), "HxW"),
            color=color,
        )
        count = _cluster_count(dataset, n_clusters)
        directory = _output_directory(out, resume, dataset.name)
        if resume and is_complete(directory):
            messages.print(f"{directory} is complete, nothing to resume", highlight=False)
            return
        place.append(directory)
        shape = " x ".join(str(s) for s in dataset.X.shape[1:])
        messages.print(
            f"{dataset.name}: {dataset.n_samples} samples of {shape}, {count} clusters",
            markup=False,
            highlight=False,
        )
        checkpoint = directory / CHECKPOINT
        show: _Bars | _Lines = _Bars(messages) if messages.is_terminal else _Lines(messages)
        with show, threadpool_limits(limits=threads):
            result = cluster(
                dataset,
                count,
                given_method or "auto",
                features=None if free else representation,
                feature_cache=default_cache(),
                preset=preset,
                batch_size=batch_size,
                epochs=epochs,
                lr=lr,
                pretrain_steps=pretrain_steps,
                affinity=affinity,
                threshold=threshold,
                subspace_dim=subspace_dim,
                power=power,
                unit_diagonal=unit_diagonal,
                assign_labels=assign_labels,
                seed=seed,
                device=device,
                checkpoint=checkpoint,
                resume=resume,
                callback=show.epoch,
            )
            choice, chosen_method = result.choice, result.choice.method
            own_warnings = list(warned)  # not those of the baselines
            record = make_record(chosen_method.title, result.labels, dataset.labels, sum(result.seconds.values()))
            others: list[Record] = []
            if baselines:
                show.step("baselines on the same input")
                asked = {name: one for name, one in BASELINES.items() if name != chosen_method.name}
                others = run_baselines(result.data.X, count, seed, dataset.labels, baselines=asked)
            show.step("writing results")
            shows_images = dataset.image_shape is not None and dataset.image_shape[0] in (1, 3)
            directory.mkdir(parents=True, exist_ok=True)
            result.predictor.save(directory / MODEL)
            write_run(
                directory,
                labels=result.labels,
                coefficients=result.coefficients,
                affinity=result.affinity,
                method=record,
                baselines=others,
                config={
                    **_settings(dataset, data, count, seed, result),
                    "choice": None if choice is None else {"normalized_cuts": choice.cuts},
                    "warnings": own_warnings,
                },
                diagnostics={"stability": result.spectral.stability, "normalized_cut": result.spectral.normalized_cut},
                pretraining=result.training.pretraining,
                history=result.training.history,
                images=dataset.X if shows_images else None,
            )
        checkpoint.unlink(missing_ok=True)

        results = Console()
        title = f"{dataset.name}, {dataset.n_samples} samples, {count} clusters"
        if dataset.labels is None:
            title += " (no true labels: nothing to compare with)"
        results.print(_comparison([record, *others], title))
        results.print(_trust(result), markup=False, highlight=False, soft_wrap=True)
        results.print(f"results in {directory}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    data: Annotated[
        str, typer.Argument(help="'digits', a folder of images, or a .npy, .npz or .mat file.", metavar="digits|PATH")
    ],
    out: Annotated[Path, typer.Option(help="New CSV file for the labels.")],
    image_shape: Annotated[
        str | None, typer.Option(help="Read rows as images: 32x32 or 3,32,32.", metavar="HxW")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="Folders: resample images to this size.", metavar="HxW")] = None,
    color: Annotated[ColorName, typer.Option(help="Folders: read images as gray or rgb.")] = "auto",
) -> None:
    """Label new samples with the model of a run; write index,label lines to a CSV file."""
    messages = Console(stderr=True)
    with _guarded(messages, lambda: None), _one_line_warnings(messages):
        from dsclust.data import load
        from dsclust.metrics import make_record
        from dsclust.predictor import Predictor
        from dsclust.report import write_labels

        if out.exists():
            raise ValueError(f"--out: {out} exists already; name another file")
        if not (run / MODEL).is_file():
            raise ValueError(f"RUN: {run} holds no {MODEL}: it is not a finished run of dsclust fit")
        predictor = Predictor.load(run / MODEL)
        dataset = load(
            data,
            image_shape=_integers("--image-shape", image_shape, (2, 3), "HxW or C,H,W"),
            pixel_range=predictor.pixel_range,
            resize=_integers("--resize", resize, (2,), "HxW"),
            color=color,
        )
        start = time.perf_counter()
        labels = predictor.predict(dataset.X)
        seconds = time.perf_counter() - start
        write_labels(out, labels)
        results = Console()
        if dataset.labels is not None:
            record = make_record(predictor.method.title, labels, dataset.labels, seconds)
            results.print(_comparison([record], f"{dataset.name}, {dataset.n_samples} samples"))
        results.print(f"{len(labels)} labels in {out}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def experiment(
    context: typer.Context,
    name: Annotated[ExperimentName, typer.Argument(help="What to measure; each file in dsclust/experiments is one.")],
    data: Annotated[Path, typer.Option(envvar="DSCLUST_DATA", help="Folder that holds the data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for results.md and results/NAME.json and .png.")] = Path("docs"),
    seeds: Annotated[int | None, typer.Option(min=1, help="Default: the experiment's.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a run.")] = 1,
) -> None:
    """Measure what an experiment asks and write the page of results; runs that are there are not repeated."""
    messages = Console(stderr=True)
    with _guarded(messages, lambda: shlex.join(_typed(context))):
        from dsclust.experiments import NAMES, get_experiment
        from dsclust.experiments.results import write_page
        from dsclust.experiments.runner import run_experiment

        chosen = get_experiment(name)

        def show(done: int, count: int, record: dict[str, Any]) -> None:
            acc = f"  ACC {record['scores']['acc']:.4f}" if "scores" in record else ""
            title = f"{record['data']}, {record['label']}, seed {record['seed']}"
            line = f"{done}/{count}  {title}{acc}  {record['seconds']:.0f} s"
            messages.print(line, markup=False, highlight=False, soft_wrap=True)

        run_experiment(
            chosen,
            data,
            out / "results" / f"{name}.json",
            cache=out / "results" / ".pretrained",
            seeds=seeds,
            jobs=jobs,
            threads=threads,
            show=show,
        )
        write_page([get_experiment(each) for each in NAMES], out / "results.md", out / "results")
        messages.print(f"results in {out / 'results.md'}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the methods, and what `--set` may set of each."""
    from dsclust.methods import METHODS

    table = Table(title="Methods (`dsclust fit --method NAME --set SETTING=VALUE`)", title_justify="left")
    for heading in ("name", "what", "settings and defaults"):
        table.add_column(heading)
    for name, method in METHODS.items():
        own = "\n".join(f"{field.name}={_written(field.default)}" for field in fields(method))
        table.add_row(name, f"{method.title}: {method.summary}", own or "-")
    Console().print(table)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command()
def presets() -> None:
    """List the presets: the data they were published on, and what they set."""
    from dsclust.presets import PRESETS, get_preset

    table = Table(title="Presets (`dsclust fit --preset NAME`)", title_justify="left")
    headings = ("name", "image", "pixels", "channels", "kernels", "epochs", "thrC", "dim", "power")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for name in PRESETS:
        # What depends on the number of clusters is shown for the 38 subjects of the published set.
        preset = get_preset(name, 38)
        table.add_row(
            name,
            "any" if preset.image_shape is None else "x".join(map(str, preset.image_shape)),
            "any" if preset.pixel_range is None else "{:g}..{:g}".format(*preset.pixel_range),
            ",".join(map(str, preset.channels)),
            ",".join(map(str, preset.kernels)),
            "by size" if preset.epochs is None else str(preset.epochs),
            f"{preset.graph.threshold:g}",
            str(preset.graph.subspace_dim),
            f"{preset.graph.power:g}",
        )
    Console().print(table)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"dsc-ext {dsclust.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Deep subspace clustering of images and features."""


def main() -> None:
    """Entry point of the console script `dsclust`."""
    app()


if __name__ == "__main__":
    main()
