"""A traced model as a block diagram."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from ndgrad.diagnostics.style import GREY, SKY

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {  # status -> fill; the words are those of the legend
    "input": ("0.92", "input or output"),
    "output": ("0.92", "input or output"),
    "differentiable": ("#dcecf7", "differentiable"),
    "estimated": (SKY, "estimated gradient"),
    "bypassed": ("#7fcfb2", "bypassed by a network"),
    "broken": ("#f2a679", "broken: no gradient passes"),
}
_WIDTH, _HEIGHT = 2.5, 1.0  # inches between the centres of neighbouring boxes
_BOX = (2.1, 0.56)


def draw(graph: nx.DiGraph, axis: Axes | None = None) -> Figure:
    """Draw what `ndgrad.trace` returned, inputs at the top: boxes coloured by status, arrows along the data.

    A solid arrow means that a gradient flows back along it, a dotted one that none does; boxes with a dashed border
    receive no gradient of the outputs.

    Args:
        graph: from `ndgrad.trace`.
        axis: matplotlib axes to draw on; None for a figure of its own, sized to the graph.

    Returns:
        The matplotlib figure.

    """
    from matplotlib.figure import Figure

    places = _places(graph)
    columns = max(x for x, _ in places.values()) - min(x for x, _ in places.values()) + 1
    layers = max(-y for _, y in places.values()) + 1
    if axis is None:
        size = (max(_WIDTH * columns + 1.2, 6.5), _HEIGHT * layers + 0.7)
        axis = Figure(figsize=size, layout="constrained").subplots()
    for source, target, data in graph.edges(data=True):
        _arrow(axis, places[source], places[target], data["gradient"])
    for name, data in graph.nodes(data=True):
        _box(axis, places[name], data)
    middle = (max(x for x, _ in places.values()) + min(x for x, _ in places.values())) / 2
    half = max(columns / 2, 1.2)
    axis.set_xlim(middle - half - 0.1, middle + half + 0.1)
    axis.set_ylim(-layers + 0.4, 0.6)
    axis.set_axis_off()
    _legend(axis, graph)
    figure = axis.get_figure(root=True)
    assert figure is not None
    return figure


def _places(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Place each node one layer below its lowest predecessor, near the mean of those above it."""
    import networkx as nx

    layer: dict[str, int] = {}
    for name in nx.topological_sort(graph):
        layer[name] = max((layer[above] + 1 for above in graph.predecessors(name)), default=0)
    last = max(layer.values())
    layer |= {name: last for name, status in graph.nodes(data="status") if status == "output"}
    x: dict[str, float] = {}
    for depth in range(last + 1):
        names = [name for name in graph if layer[name] == depth]
        wish = {name: _mean([x[above] for above in graph.predecessors(name) if above in x]) for name in names}
        names.sort(key=lambda name: wish[name])
        middle = _mean(list(wish.values()))
        x |= {name: middle + index - (len(names) - 1) / 2 for index, name in enumerate(names)}
    return {name: (x[name], -float(layer[name])) for name in graph}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _box(axis: Axes, place: tuple[float, float], data: dict[str, Any]) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = _BOX[0] / _WIDTH, _BOX[1] / _HEIGHT
    fill, _ = _COLOURS[data["status"]]
    axis.add_patch(
        FancyBboxPatch(
            (place[0] - width / 2, place[1] - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill, edgecolor="black", linestyle="-" if data["reached"] else (0, (3, 2)), zorder=2,
        )
    )  # fmt: skip
    for text, shift, size in ((_short(data["label"]), 0.15, 9), (_second_line(data), -0.11, 7)):
        axis.text(place[0], place[1] + shift, text, ha="center", va="center", fontsize=size, zorder=3)


def _second_line(data: dict[str, Any]) -> str:
    """Return the estimator, the reason of a break, or the type."""
    if data["status"] in ("estimated", "bypassed"):
        return str(data["detail"]).split("(")[0]
    text = data["detail"] if data["status"] == "broken" else data["type"]
    return "\n".join(textwrap.wrap(text, 24)[:2])


def _short(text: str, limit: int = 26) -> str:
    """Keep the end, which tells deep names apart."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def _arrow(axis: Axes, source: tuple[float, float], target: tuple[float, float], gradient: bool) -> None:
    from matplotlib.patches import FancyArrowPatch

    side, half = _BOX[0] / _WIDTH / 2, _BOX[1] / _HEIGHT / 2
    start, end, bend = (source[0], source[1] - half), (target[0], target[1] + half), 0.0
    if source[1] - target[1] > 1.5 and abs(source[0] - target[0]) < 0.5:  # around the boxes between
        start, end, bend = (source[0] - side, source[1]), (target[0] - side, target[1]), 0.25
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
            color="black" if gradient else GREY, linestyle="-" if gradient else ":", linewidth=1.1, zorder=1,
        )
    )  # fmt: skip


def _legend(axis: Axes, graph: nx.DiGraph) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = {_COLOURS[status] for _, status in graph.nodes(data="status")}
    handles: list[Any] = [
        Patch(facecolor=fill, edgecolor="black", label=words)
        for fill, words in dict.fromkeys(_COLOURS.values())
        if (fill, words) in present
    ]
    handles.append(Line2D([], [], color="black", label="a gradient flows back"))
    if not all(alive for *_, alive in graph.edges(data="gradient")):
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="no gradient flows back"))
    if not all(reached for _, reached in graph.nodes(data="reached")):
        handles.append(
            Patch(facecolor="white", edgecolor="black", linestyle="--", label="receives no gradient")
        )
    axis.legend(
        handles=handles, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2
    )
