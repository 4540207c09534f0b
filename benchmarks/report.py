"""The results as one HTML file that needs no other: images inside, no scripts, no links to follow."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

from benchmarks.records import Record, Skipped
from benchmarks.stored_references import reference
from benchmarks.tasks import Task
from benchmarks.verdict import verdict
from benchmarks.wording import HOW_TO_READ, columns, conversions, tables, title

_TEMPLATE = Template((Path(__file__).parent / "report_template.html").read_text())
_CAPTIONS = {
    "relative_error": "Relative error, mean over the seeds. The line at 1 is the error of answering zero.",
    "bias_variance": "Squared bias and variance. A squared bias that is not positive is left out.",
    "seconds": "Time of one forward and backward of the whole batch, median over the seeds.",
    "objective": "Objective after optimising; the dashed line is where every estimator started.",
}


def html(
    records: list[Record], skipped: list[Skipped], tasks: list[Task], figures: Mapping[str, bytes]
) -> str:
    """Write the whole report."""
    configuration = records[0].configuration
    return _TEMPLATE.substitute(
        approach_steps=configuration["approach_steps"],
        optimisation_seeds=configuration["optimisation_seeds"],
        how_to_read=escape(HOW_TO_READ),
        tasks="\n".join(_task(task) for task in tasks),
        figures="\n".join(_figure(name, png) for name, png in figures.items()),
        tables="\n".join(_table(group) for group in tables(records)),
        skipped="\n".join(_skipped(entry) for entry in skipped) or "<li>nothing</li>",
        provenance=escape(_provenance(records[0])),
    )


def _task(task: Task) -> str:
    truth = reference(task)
    summary = f'<td class="words">{escape(task.summary)}</td>'
    return _row([f"<td>{task.name}</td>", summary, *_data([truth.source, f"{truth.relative_error:.2g}"])])


def _table(group: list[Record]) -> str:
    shown = columns(group)
    head = "".join(f"<th>{escape(c.name)}<br><small>{escape(c.unit)}</small></th>" for c in shown)
    best = min(group, key=lambda record: record.relative_error)
    rows = [_row(_data(c.cell(record) for c in shown), "best" if record is best else "") for record in group]
    body = "\n".join([f"<tr>{head}</tr>", *rows])
    table = f'<h3>{escape(title(group))}</h3>\n<div class="wide"><table>\n{body}\n</table></div>'
    found, words = verdict(group), conversions(group)
    notes = [found.sentence()] if found else []
    notes += [f"converted: {estimator}: {formula}" for estimator, formula in words.items()]
    return "\n".join([table, *(f"<p>{escape(note)}</p>" for note in notes)])


def _data(texts: Iterable[str]) -> list[str]:
    return [f"<td>{escape(text)}</td>" for text in texts]


def _row(data: Iterable[str], kind: str = "") -> str:
    return f'<tr class="{kind}">{"".join(data)}</tr>' if kind else f"<tr>{''.join(data)}</tr>"


def _skipped(entry: Skipped) -> str:
    return f"<li>{escape(f'{entry.task}, {entry.estimator}: {entry.reason}')}</li>"


def _figure(name: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    caption = escape(_CAPTIONS[name])
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _provenance(record: Record) -> str:
    facts = ("configuration", "seeds", "versions", "device", "threads")
    return json.dumps({fact: getattr(record, fact) for fact in facts}, indent=1)
