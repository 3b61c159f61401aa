"""`dsclust methods` and `dsclust presets`: what there is to name, as tables."""

from __future__ import annotations

from dataclasses import fields

from rich.console import Console
from rich.table import Table

from dsclust.names import PresetName, words


def methods() -> None:
    """List the methods, and what `--set` may set of each."""
    from dsclust.methods import METHODS

    table = Table(title="Methods (`dsclust fit --method NAME --set SETTING=VALUE`)", title_justify="left")
    for heading in ("name", "what", "settings and defaults"):
        table.add_column(heading)
    for name, method in sorted(METHODS.items(), key=lambda item: bool(item[1].training_options)):  # closed forms first
        own = "\n".join(f"{field.name}={_format_value(field.default)}" for field in fields(method))
        table.add_row(name, f"{method.title}: {method.summary}", own or "-")
    Console().print(table)
    Console().print(_parts_table())


def _parts_table() -> Table:
    from dsclust.parts.consistency import CONSISTENCIES
    from dsclust.parts.order import BANK_ORDERS
    from dsclust.parts.penalty import PENALTIES

    title = "Parts that a setting names (`--set consistency=ema:momentum=0.3`)"
    table = Table(title=title, title_justify="left")
    for heading in ("setting", "name", "what", "its settings"):
        table.add_column(heading)
    for setting, parts in (("consistency", CONSISTENCIES), ("bank", BANK_ORDERS), ("penalty", PENALTIES)):
        for name, part in parts.items():
            own = "\n".join(f"{field.name}={_format_value(field.default)}" for field in fields(part))
            cost = getattr(part, "cost", "none")
            table.add_row(setting, name, part.summary + ("" if cost == "none" else f"; costs {cost}"), own or "-")
    return table


def _format_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def presets() -> None:
    """List the presets: the data they were published on, and what they set."""
    from dsclust.presets import get_preset

    table = Table(title="Presets (`dsclust fit --preset NAME`)", title_justify="left")
    for heading in ("name", "image", "pixels", "channels", "kernels", "epochs", "thrC", "dim", "power"):
        table.add_column(heading, no_wrap=True)
    for name in words(PresetName):
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
