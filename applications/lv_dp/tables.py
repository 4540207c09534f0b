"""What the command line prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from applications.lv_dp.compare import Comparison
from applications.lv_dp.segment import Segmentation
from applications.lv_dp.summary import SIZES
from applications.lv_dp.surface import DISTANCES


def training_table(scores: dict[str, dict[str, float]], title: str) -> Table:
    """Lay out mean Dice scores by method."""
    table = _table("method", "Dice, whole image", "Dice, star's square", title=title)
    for method, values in scores.items():
        table.add_row(method, f"{values['dice_whole']:.4f}", f"{values['dice_square']:.4f}")
    return table


def training_line(count: int, data: str) -> str:
    """Say what a training begins on."""
    drawn = " (drawn hearts; --data names others)" if data == "phantom" else ""
    return f"{count} training slices of {data}{drawn}"


def search_table(candidates: Sequence[dict[str, Any]]) -> Table:
    """Lay out what `search` tried, the best first."""
    table = _table(
        "settings",
        "Dice, whole image",
        "training, s",
        title="on patients held out within the training patients",
    )
    for candidate in candidates:
        name = ", ".join(candidate["change"])
        table.add_row(name, f"{candidate['dice_whole']:.4f}", f"{candidate['seconds']:.0f}")
    return table


def evaluation_tables(methods: dict[str, dict[str, Any]], title: str) -> list[Table]:
    """Lay out the summaries of `evaluate`: scores, Dice by size, and volumes where there are any."""
    tables = [_score_table(methods, title), _size_table(methods)]
    if any(summary["volumes"] for summary in methods.values()):
        tables.append(_volume_table(methods))
    return tables


def trained_on_line(trained_on: int, count: int) -> str:
    """Say that scores are not only of slices that the training did not see."""
    return f"{trained_on} of the {count} slices were trained on; type --subset held_out for those of held-out patients"


def _score_table(methods: dict[str, dict[str, Any]], title: str) -> Table:
    unit = next(iter(methods.values()))["unit"]
    heads = [f"{name.upper()}, {unit}" for name in DISTANCES]
    table = _table("method", "Dice, whole image", "Dice, star's square", *heads, "empty", title=title)
    for method, summary in methods.items():
        overlaps = [_spread(summary[key], 4) for key in ("dice", "dice_square")]
        distances = [_spread(summary[f"{name}_mm"], 2) for name in DISTANCES]
        table.add_row(method, *overlaps, *distances, str(summary["empty"]))
    return table


def _size_table(methods: dict[str, dict[str, Any]]) -> Table:
    thirds = next(iter(methods.values()))["by_size"]
    table = _table("method", *(_size_head(size, thirds[size]) for size in SIZES), title="Dice by true area")
    for method, summary in methods.items():
        table.add_row(method, *(_spread(summary["by_size"][size]["dice"], 4) for size in SIZES))
    return table


def _size_head(size: str, third: dict[str, Any]) -> str:
    if third["area"] is None:
        return f"{size}, none"
    low, high = third["area"]
    return f"{size}, {third['n']} of {low:.0f} .. {high:.0f} {third['unit']}"


def _volume_table(methods: dict[str, dict[str, Any]]) -> Table:
    heads = ("method", "quantity", "patients", "mean absolute error", "bias", "limits of agreement")
    table = _table(*heads, title="volumes")
    for method, summary in methods.items():
        for part, unit in (("edv", "ml"), ("esv", "ml"), ("ef", "%")):
            found = summary["volumes"][part]
            limits = "-" if found["lower"] is None else f"{found['lower']:+.1f} .. {found['upper']:+.1f}"
            mae, bias = (
                ("-" if found[k] is None else f"{found[k]:{f}}")
                for k, f in (("mae", ".1f"), ("bias", "+.1f"))
            )
            table.add_row(method, f"{part.upper()}, {unit}", str(found["n"]), mae, bias, limits)
    return table


def comparison_table(comparisons: Sequence[Comparison], reference: str) -> Table:
    """Lay out paired comparisons with the first evaluation."""
    heads = (
        "against it",
        "patients",
        "mean Dice",
        "mean of the first",
        "median difference",
        "95 % interval",
        "p",
    )
    table = _table(*heads, title=escape(f"Dice per patient against {reference}"))
    for row in comparisons:
        interval = f"{row.low:+.4f} .. {row.high:+.4f}"
        means = (f"{row.mean:.4f}", f"{row.reference_mean:.4f}", f"{row.median_difference:+.4f}")
        table.add_row(escape(row.label), str(row.n), *means, interval, f"{row.p:.3g}")
    return table


def segmentation_line(found: Segmentation) -> str:
    """Say how large the segmented area is."""
    if found.area is None:
        return (
            f"area {found.pixels} pixels; the file does not say how large they are{_assumed(found.assumed)}"
        )
    return f"area {found.area:.1f} mm2 ({found.pixels} pixels)"


def _assumed(spacing: float | None) -> str:
    if spacing is None:
        return ""
    return f", taken to be {spacing:g} mm as in the training data: type --spacing MM if they are not"


def _table(*heads: str, title: str) -> Table:
    """Return an empty table whose narrow columns fold what they hold: nothing is cut off."""
    return Table(*(Column(head, overflow="fold") for head in heads), title=title)


def _spread(values: dict[str, Any], digits: int) -> str:
    if values["mean"] is None:
        return "-"
    return f"{values['mean']:.{digits}f} ± {values['std']:.{digits}f}"
