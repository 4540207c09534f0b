"""The results as one HTML file that needs no other: images inside, no scripts, no links to follow."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape

from benchmarks.records import Record, Skipped
from benchmarks.stored_references import reference
from benchmarks.tasks import Task
from benchmarks.wording import COLUMNS, HOW_TO_READ, cells, tables, title

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; font-size: 1.2rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .18rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { vertical-align: bottom; } th small { font-weight: normal; color: #666; }
tr.best td { background: #e8f4ea; } img { max-width: 100%; } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; }
"""
_MEASURED = """
<p>Each estimator computes the gradient of a function that has none, by evaluating it at a few points. It is compared with
the gradient of <i>E</i>&#8239;&lang;<i>v</i>,&nbsp;<i>f</i>(<i>x</i>&nbsp;+&nbsp;&sigma;&epsilon;)&rang;, &epsilon; standard normal, at one batch of
points <i>x</i> with the cotangent <i>v</i> of the task's loss at <i>f</i>(<i>x</i>). That reference comes from a closed form or from a
million pairs of evaluations, never from an estimator under test; the standard error of a stored reference is subtracted from the squared bias.</p>
<ul>
<li><b>Equal evaluations.</b> Within one table every estimator has the same number of evaluations per row of the batch and backward pass, the
value's own included, counted by the black box. Estimators that cannot meet it are listed as skipped.</li>
<li><b>The target is Gaussian smoothing.</b> Directions of fixed norm (orthogonal ones) smooth by a slightly different law, and finite differences
with a tiny step do not smooth at all: part of their squared bias is this difference of target.</li>
<li><b>Estimators that learn</b> (the bypass) are met after some calls at nearby points, as in an optimisation, each at the same budget.</li>
<li><b>Objective after optimising</b>: Adam on the inputs through the wrapped box (for the left-ventricle task: training the pipeline), the same steps and evaluations per
step for every estimator, mean over a few seeds.</li>
<li><b>Squared bias</b> is corrected for sampling noise; a value at or below zero means that none was found.</li>
</ul>
"""
_CAPTIONS = {
    "relative_error": "Relative error, mean over the seeds. The line at 1 is the error of answering zero.",
    "bias_variance": "Squared bias and variance at the largest budget. A squared bias that is not positive is left out.",
    "seconds": "Time of one forward and backward of the whole batch, median over the seeds.",
    "objective": "Objective after optimising; the dashed line is where every estimator started.",
}


def html(
    records: list[Record], skipped: list[Skipped], tasks: list[Task], figures: Mapping[str, bytes]
) -> str:
    """Write the whole report."""
    groups = tables(records)
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Gradient estimators compared</title>',
            f"<style>{_STYLE}</style></head><body><h1>Gradient estimators at equal evaluations</h1>",
            f"<h2>What was measured</h2>{_MEASURED}<p>{escape(HOW_TO_READ)}</p>{_tasks(tasks)}",
            "<h2>Figures</h2>",
            *(_image(name, png) for name, png in figures.items()),
            "<h2>Tables</h2>",
            *(_table(group) for group in groups),
            _skipped(skipped),
            _provenance(records),
            "</body></html>",
        ]
    )


def _tasks(tasks: list[Task]) -> str:
    rows = "".join(
        f"<tr><td>{escape(task.name)}</td><td style='text-align:left;white-space:normal'>{escape(task.summary)}</td>"
        f"<td>{escape(reference(task).source)}</td><td>{reference(task).relative_error:.2g}</td></tr>"
        for task in tasks
    )
    head = "<tr><th>task</th><th>black box</th><th>reference</th><th>its standard error<br><small>of |reference|</small></th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _table(group: list[Record]) -> str:
    head = "".join(f"<th>{escape(name)}<br><small>{escape(unit)}</small></th>" for name, unit in COLUMNS)
    best = min(group, key=lambda record: record.relative_error)
    rows = "".join(
        f"<tr{' class=best' if record is best else ''}>"
        + "".join(f"<td>{escape(c)}</td>" for c in cells(record))
        + "</tr>"
        for record in group
    )
    return f'<h3>{escape(title(group))}</h3><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _skipped(skipped: list[Skipped]) -> str:
    if not skipped:
        return ""
    items = "".join(f"<li>{escape(f'{e.task}, {e.estimator}: {e.reason}')}</li>" for e in skipped)
    return f"<h2>Skipped</h2><ul>{items}</ul>"


def _image(name: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    caption = escape(_CAPTIONS[name])
    return f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _provenance(records: list[Record]) -> str:
    first = records[0]
    facts = {
        "configuration": first.configuration,
        "seeds": first.seeds,
        "versions": first.versions,
        "device": first.device,
        "threads": first.threads,
    }
    return f"<h2>Provenance</h2><pre>{escape(json.dumps(facts, indent=1))}</pre>"
