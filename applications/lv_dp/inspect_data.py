"""Look at a data set before anything is trained on it: what was read, what was dropped, and whether masks fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table
from rich.text import Text

from applications.lv_dp.contact_sheet import save_contact_sheet
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.cache import load_resampled
from applications.lv_dp.data.pack import BITS, write_pack
from applications.lv_dp.data.sources import load
from applications.lv_dp.data.volumes import ejection_fraction, volumes


@dataclass(frozen=True)
class DataConfig:
    """Describe a data set; draw or pack it.

    Attributes:
        spec: ``phantom``, ``png:DIR``, ``png:DIR@MM`` (pixels of that size), ``acdc:DIR``, ``sunnybrook:DIR``
            or ``packed:FILE``.
        out: PNG file for some slices with their contours.
        pack: file for the whole data set, resampled, to be read as ``packed:FILE``.
        bits: of a packed intensity.
        resample: describe and draw the slices as resampled to 212 x 212 pixels of 1.36719 mm; implied by pack.
        threads: of torch.
    """

    spec: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SPEC")]
    out: Path | None = None
    pack: Path | None = None
    bits: int = BITS
    resample: bool = False
    threads: int = 1


def main(config: DataConfig) -> dict[str, Any]:
    """Describe the data and write the files asked for.

    Raises:
        DataError: the data cannot be used, or its spacing is unknown where it must be resampled.
    """
    data = load_resampled(config.spec) if config.resample or config.pack else load(config.spec)
    results = describe(data)
    if config.out:
        save_contact_sheet(config.out, data)
        results["contact_sheet"] = str(config.out)
    if config.pack:
        results["pack"] = {"file": str(config.pack)} | asdict(write_pack(config.pack, data, config.bits))
    return results


def describe(data: SliceSet) -> dict[str, Any]:
    """Return counts, sizes, spacings (mm), intensities, areas (cm²) and volumes (ml); None where unknown.

    ``area_px`` are the areas in pixels of the slices whose spacing is unknown.
    """
    areas = [item.area / 100 for item in data.slices if item.area is not None]
    return {
        "source": data.source,
        "patients": len(data.patients),
        "slices": len(data),
        "dropped": data.drop_reasons,
        "phases": _count(item.phase for item in data.slices),
        "groups": _count({item.patient: item.group for item in data.slices}.values()),
        "sizes": _count("{} x {}".format(*item.mask.shape) for item in data.slices),
        "spacing": _range([side for item in data.slices for side in item.spacing or ()]),
        "spacing_unknown": sum(item.spacing is None for item in data.slices),
        "slice_spacing": _range(
            [item.slice_spacing for item in data.slices if item.slice_spacing is not None]
        ),
        "intensities": _intensities(data),
        "area": _range(areas),
        "area_px": _range([float(item.mask.sum()) for item in data.slices if item.area is None]),
        "volumes": _volumes(data),
    }


def _count(values: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(value for value in values if value is not None).items()))


def _range(values: list[float]) -> dict[str, float] | None:
    """Return least, median and largest."""
    if not values:
        return None
    return {"least": min(values), "median": float(np.median(values)), "largest": max(values)}


def _intensities(data: SliceSet) -> dict[str, float]:
    """Return the extremes, and the medians over slices of their 1st, 50th and 99th percentile."""
    percentiles = np.array([np.percentile(item.image.numpy(), (0, 1, 50, 99, 100)) for item in data.slices])
    low, median, high = np.median(percentiles[:, 1:4], axis=0).tolist()
    extremes = {"least": float(percentiles[:, 0].min()), "largest": float(percentiles[:, 4].max())}
    return extremes | {"percentile_1": low, "median": median, "percentile_99": high}


def _volumes(data: SliceSet) -> dict[str, dict[str, float] | None]:
    found = volumes(data)
    fractions = [ejection_fraction(**volume) for volume in found.values() if len(volume) == 2]
    return {
        "ED": _range([volume["ED"] for volume in found.values() if "ED" in volume]),
        "ES": _range([volume["ES"] for volume in found.values() if "ES" in volume]),
        "ejection_fraction": _range([value for value in fractions if value is not None]),
    }


def table(results: dict[str, Any]) -> Table:
    """Return the description as a table for people."""
    shown = Table("what", "value", title=Text(results["source"]))
    for what, value in _rows(results):
        shown.add_row(what, Text(value))
    return shown


def _rows(results: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "patients", str(results["patients"]) + _listed(results["groups"])
    yield "slices with a left ventricle", str(results["slices"]) + _listed(results["phases"])
    for reason, count in results["dropped"].items() or [("none", 0)]:
        yield "dropped", f"{count}: {reason}" if count else reason
    yield "rows x columns", _most_frequent(results["sizes"])
    yield "pixel spacing", _spread(results["spacing"], "mm", 3) + _unknown(results)
    yield "slice spacing", _spread(results["slice_spacing"], "mm", 1)
    level = results["intensities"]
    yield "intensities", f"{level['least']:.4g} .. {level['largest']:.4g}"
    quantiles = (level["percentile_1"], level["median"], level["percentile_99"])
    yield "  1 %, 50 %, 99 % of the median slice", ", ".join(f"{value:.4g}" for value in quantiles)
    yield "cavity's area", _area(results)
    for phase in ("ED", "ES"):
        yield f"cavity's volume, {phase}", _spread(results["volumes"][phase], "ml", 0)
    yield "ejection fraction", _spread(results["volumes"]["ejection_fraction"], "%", 0)
    if "contact_sheet" in results:
        yield "contact sheet", results["contact_sheet"]
    if "pack" in results:
        pack = results["pack"]
        yield "packed", f"{pack['file']}, {pack['bytes'] / 1e6:.1f} MB"
        yield "  largest error", f"{pack['worst_relative_error']:.2%} of the slice's range"


def _most_frequent(sizes: dict[str, int], count: int = 3) -> str:
    ordered = sorted(sizes.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{size} ({number})" for size, number in ordered[:count])
    return f"{shown} and {len(ordered) - count} more" if len(ordered) > count else shown


def _listed(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})" if counts else ""


def _unknown(results: dict[str, Any]) -> str:
    missing = results["spacing_unknown"]
    return f" ({missing} slices unknown)" if 0 < missing < results["slices"] else ""


def _area(results: dict[str, Any]) -> str:
    """Return the areas in cm², and in pixels where their size is unknown."""
    known, pixels = results["area"], results["area_px"]
    shown = [] if known is None else [_spread(known, "cm²", 1)]
    if pixels is not None:
        shown.append(f"unknown size: {_spread(pixels, 'pixels', 0)}")
    return "; ".join(shown)


def _spread(values: dict[str, float] | None, unit: str, digits: int) -> str:
    if values is None:
        return "unknown"
    least, median, largest = (f"{values[name]:.{digits}f}" for name in ("least", "median", "largest"))
    numbers = least if least == largest else f"{least} .. {largest}, median {median}"
    return f"{numbers} {unit}".rstrip()
