"""Pages of measured numbers, read from the files that the measuring commands wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"
Cells = Sequence[object]


def pages() -> dict[str, str]:
    """Return the text of each page by its path."""
    return {
        "results/measured.md": measured(),
        "results/peers.md": peers(),
        "results/left_ventricle.md": left_ventricle(),
    }


def measured() -> str:
    """Write up the library's own benchmarks, one section for each command."""
    return _join(
        "# Accuracy and speed of the library",
        "Each section is one command; its numbers are read by the build from the file that the command wrote.",
        _descent(_read("descent_path")),
        _accuracy(_read("quadratic_sine_accuracy")),
        _overhead(_read("overhead")),
        _executors(_read("executors")),
        _parameterised("threshold_chain"),
        _parameterised("smooth_path"),
        _recommendations(_read("recommendations")),
        _dynamic_programming(_read("dynamic_programming")),
    )


def _descent(d: dict[str, Any]) -> str:
    c = d["configuration"]
    labels = {
        "leave_one_out": f"evolution strategy, leave-one-out, {c['probes']} probes",
        "diff_bypass": f"bypass, {c['probes']} probes",
        "diff_bypass_difference": f"bypass, differences matched, replay, trust region, {c['probes']} probes",
        "control_variate": f"control variate, {c['probes']} probes",
        "guided_evolution_strategy": f"guided evolution strategy, {c['probes']} probes",
        "mixture": f"mixture of the bypass with replay and the control variate, {c['probes']} probes",
        "few_leave_one_out": f"evolution strategy, leave-one-out, {c['few_probes']} probes",
        "few_diff_bypass": f"bypass, {c['few_probes']} probes",
        "few_diff_bypass_replay": f"bypass, {c['few_probes']} probes, replay of {c['replay']} calls",
    }
    rows = [(labels[name], _spread(values, 3)) for name, values in d["relative_squared_errors"].items()]
    ratios = [(name.replace("_", " "), f"{value:.3f}") for name, value in d["ratios"].items()]
    return _join(
        "## Squared error of the gradient along a descent",
        _made("python -m benchmarks.descent_path", "descent_path", d),
        f"{c['steps']} steps of gradient descent with rate {c['learning_rate']}; mean and deviation over seeds "
        f"{_list(d['seeds'])} of |estimate - reference|², relative to |reference|². The reference is an average of "
        f"{c['pairs']} Gaussian pairs.",
        _table(("estimator", "relative squared error"), rows),
        _table(("ratio of squared errors", ""), ratios),
    )


def _accuracy(d: dict[str, Any]) -> str:
    pairs = [(name, f"{value:.3g}") for name, value in d["pairs_relative_errors"].items()]
    single = [
        (f"orthogonal, baseline `{name}`", f"{value:.3f}")
        for name, value in d["without_pairs_relative_error"].items()
    ]
    return _join(
        "## Relative error of one gradient",
        _made("python -m benchmarks.quadratic_sine_accuracy", "quadratic_sine_accuracy", d),
        f"f(x) = |x|² + ½ Σ sin 3xᵢ + 5, sigma = 0.05, mean over {len(d['seeds'])} seeds. "
        "First 20 pairs in 10 dimensions (41 evaluations with the value's own):",
        _table(("directions", "relative error"), pairs),
        "Then 39 draws in 100 dimensions without pairs; on a linear function, S orthogonal directions leave "
        f"√(n/S - 1) = {d['expected_without_pairs']:.3f}:",
        _table(("directions", "relative error"), single),
    )


def _overhead(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (name, f"{ms:.2f}", f"{d['ratios'].get(name, 1):.2f}", d["limits"].get(name, ""))
        for name, ms in d["milliseconds"].items()
    ]
    return _join(
        "## Overhead of a wrapped call",
        _made("python -m benchmarks.overhead", "overhead", d),
        f"Value and gradient of a matrix product with {c['num_samples']} samples for each of {c['batch']} rows of "
        f"{c['num_inputs']} inputs and {c['num_outputs']} outputs, beside the same formula written by hand in torch.",
        _table(("directions", "ms", "times bare", "limit of the test"), rows),
    )


def _executors(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (
            name,
            f"{m['seconds']:.2f}",
            f"{m['model_seconds']:.2f}",
            f"{m['speed_up']:.2f}",
            f"{100 * m['efficiency']:.0f} %",
            f"{1000 * m['dispatch']:.2f}",
        )
        for name, m in d["measured"].items()
    ]
    many = [
        (
            e["rows_per_chunk"],
            *(f"{value:.0f}" for value in e["speed_ups"].values()),
            f"{e['saturates_at']:.0f}",
        )
        for e in d["many_workers"]
    ]
    return _join(
        "## Worker processes",
        _made("python -m benchmarks.executors", "executors", d),
        f"{c['rows']} rows of {1000 * c['seconds']:.0f} ms, one per chunk, with workers that have begun: "
        f"{d['serial_seconds']:.2f} s one after the other. The function sleeps, so that what is measured is the cost "
        "of handing rows out. All values equal the serial ones to the bit.",
        _table(("workers", "s", "s by the model", "speed-up", "of the ideal", "ms per chunk"), rows),
        "One process hands all chunks out. Its time per chunk is what limits many workers: with N of them busy for T "
        "seconds per chunk, it must hand out N/T chunks per second. Speed-ups by the model, by rows per chunk:",
        _table(("rows per chunk", *(f"{count} workers" for count in c["many"]), "limit"), many),
    )


def _recommendations(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (f"`{name}`", f"{each['mean_ratio']:.3f}", f"{each['least_ratio']:.3f}",
         _plain("; ".join(dict.fromkeys(each["recommended"]))), _plain(each["best"]))
        for name, each in d["tasks"].items()
    ]  # fmt: skip
    spent = fmean(each["evaluations_per_recommendation"] for each in d["tasks"].values())
    return _join(
        "## Does `recommend` take the right estimator?",
        _made(f"python -m benchmarks.recommendations --tasks {' '.join(c['tasks'])}", "recommendations", d),
        f"{c['seeds']} recommendations per task, each after {spent:,.0f} evaluations per row; then every candidate "
        f"descends for {c['steps']} steps with {c['evaluations']} evaluations per gradient. The ratio is the reduction "
        f"of the objective by the recommended one over that by the best of all; {d['good_tasks']} of {len(d['tasks'])} "
        f"tasks reach {d['limit']}. The left ventricle was not judged: its candidates take an hour and more.",
        _table(("task", "mean ratio", "least ratio", "recommended", "best"), rows),
    )


def _parameterised(name: str) -> str:
    d = _read(f"parameterised_{name}")
    rows = [
        (
            run["seed"],
            key,
            f"{d['true'][key]:g}",
            f"{value:.4f}",
            f"{run['relative_errors'][key]:+.4f}",
            run["seconds"],
        )
        for run in d["runs"]
        for key, value in run["parameters"].items()
    ]
    return _join(
        f"## Parameters inside a black box: {name.replace('_', ' ')}",
        _made(f"python -m benchmarks.parameterised --problems {name}", f"parameterised_{name}", d),
        f"Keywords of the wrapped function, trained from outputs alone, {d['steps']} steps of {d['batch']} rows.",
        _table(("seed", "parameter", "true", "found", "relative error", "seconds"), rows),
    )


def _dynamic_programming(d: dict[str, Any]) -> str:
    rows = []
    for problem in d["problems"]:
        contours, rays, radii, delta = problem["size"]
        for backend, ratios in problem["ratios"].items():
            ms = problem["milliseconds"][backend]
            rows.append(
                (contours, rays, radii, delta, problem["kind"].replace("_", " "), backend, f"{ms:.3g}",
                 *(f"{ratios[key]:.3g}" for key in ("dense", "python_loops", "open_chain")))
            )  # fmt: skip
    head = ("contours", "rays", "radii", "delta", "costs", "backend", "ms", "algorithm 2 / ours", "algorithm 1 / ours",
            "open Viterbi / ours")  # fmt: skip
    return _join(
        "## Closed-contour dynamic program",
        _made("python -m benchmarks.dynamic_programming", "dynamic_programming", d),
        "Time of the thesis' algorithms 1 (loops) and 2 (dense tensors), and of one open Viterbi pass, which solves an "
        "easier problem, over that of each exact backend here; the slow ones are timed on few contours and scaled.",
        _table(head, rows),
    )


def peers() -> str:
    """Write up the comparison with other libraries."""
    d, large, speed = _read("peers"), _read("peers_large"), _read("peers_speed")
    better = [v for v in d["verdicts"] if v["peer_better"]]
    return _join(
        "# Beside other libraries",
        _made("python -m benchmarks.compare_estimators --peers --tasks all --fractions 0.1 1 10", "peers", d),
        f"Of {d['tables']} tables (a task at a budget of evaluations), a peer's mean error is lower than that of our "
        f"best estimator by more than two standard errors in {len(better)}. They are listed like all others. *Ours* is "
        "the best of those that start afresh with every call, since none of the peers' learns. A budget of 0.1 n, 1 n "
        "or 10 n is that many times the number of inputs, and one for the value. What was run, each line one "
        "configuration, gathered by `python -m benchmarks.peers_summary`:",
        _table(
            ("tasks", "budgets", "seeds"),
            [(_list(c["tasks"]), _budgets(c), c["seeds"]) for c in d["configurations"]],
        ),
        "## Verdict on each task and budget",
        "Relative error |g - reference| / |reference|, mean ± standard error: 1 is what answering zero has. z is the "
        "difference of the means in standard errors, positive where ours is better. A *sampling* peer draws random "
        "directions, unlike one that takes differences along the axes.",
        _table(("task", "budget", "evaluations", "peer better", "errors"), _verdicts(d)),
        "## In more dimensions",
        _made(
            "python -m benchmarks.peers_summary --runs results/peers-large --name peers_large",
            "peers_large",
            large,
        ),
        "The same in up to 1000 dimensions, at a tenth as many evaluations.",
        _table(("task", "budget", "evaluations", "peer better", "errors"), _verdicts(large)),
        "## Corrections",
        "Estimates with a known factor are compared after it was divided out, so that the comparison is of noise:",
        _table(("estimator", "correction"), [(f"`{k}`", _plain(v)) for k, v in d["conversions"].items()]),
        "How each was called:",
        _table(("estimator", "note"), [(f"`{k}`", _plain(v)) for k, v in d["notes"].items()]),
        _speed(speed),
    )


def _verdicts(d: dict[str, Any]) -> list[Cells]:
    word = {True: "**yes**", False: "no"}
    return [
        (f"`{v['task']}`", v["budget"], v["evaluations"], word[bool(v["peer_better"])], _plain(v["sentence"]))
        for v in d["verdicts"]
    ]


def _speed(d: dict[str, Any]) -> str:
    c = d["configuration"]
    ours = [ms for name, ms in d["milliseconds"].items() if name not in d["times_slowest_of_ours"]]
    rows = [
        (
            f"`{name}`",
            f"{ms:.4g}",
            *("ours" if ms in ours else f"{ms / one:.3g}" for one in (min(ours), max(ours))),
        )
        for name, ms in sorted(d["milliseconds"].items(), key=lambda item: item[1])
    ]
    return _join(
        "## Speed",
        _made("python -m benchmarks.peers_speed", "peers_speed", d),
        f"One gradient with {c['evaluations']} evaluations for each of {c['batch']} rows of {c['num_inputs']} inputs, "
        f"median of {c['repeats']}. `torchopt_sum_over_batch` is something else, and is no per-row estimate: one noise "
        "weight for the whole batch, with an error that is √B times larger ([why](../../concepts/per_row)). "
        f"Not timed, since they do not apply: {_list(d['skipped'])}.",
        _table(("estimator", "ms", "times the quickest of ours", "times the slowest of ours"), rows),
    )


def left_ventricle() -> str:
    """Write up the tables of the thesis beside ours."""
    return _join(
        "# Left ventricle: the thesis' table beside ours",
        "Segmentation through an exact closed-contour dynamic program (`applications/lv_dp`; the "
        "[tutorial](../tutorials/10_the_left_ventricle) shows how). *EDPCNN* is the thesis' name for a U-Net that is "
        "trained through the dynamic program with `DiffBypass`. *U-Net + DP* is trained on pixels and read out by "
        "the program. *Per-ray cross-entropy* and *soft-min DP* are losses on the same star with a gradient of "
        "their own. *Mean circle* is not trained, and *ceiling of the star* is the score of the true contour drawn "
        "on the star. Dice is the overlap of two masks, 1 for equal ones.",
        _regime("published", "As published: same iterations for all, no image augmentation"),
        _regime("thirds", "As published, every patient held out once"),
        _regime("tuned", "Tuned: augmentation, equal time, a search of settings for every method"),
        _search(_read("lv_sunnybrook_search")),
        _sizes("published"),
        _sizes("tuned"),
        _estimators(_read("left_ventricle_table")),
        _published(_read("lv_sunnybrook_published")["published"]),
        "## What was not measured",
        "Sunnybrook with more than 10 slices, ACDC with more than 200; the profiles `thesis` and `paper`; anything "
        "on a GPU. The thesis' scores are of other patients and other pixels, and selected on the held-out slices: the "
        "*order* of the methods can be compared with ours, the numbers cannot.",
    )


def _regime(regime: str, title: str) -> str:
    d = _read(f"lv_sunnybrook_{regime}")
    whole = {s["row"]: s for s in d["scores"] if s["score"] == "dice_whole"}
    paired = {p["row"]: p for p in d["paired"] if p["score"] == "dice_whole"}
    thesis = {row["row"]: row.get("published") for row in d["table"]}
    rows = []
    for name, score in sorted(whole.items(), key=lambda item: -item[1]["mean"]):
        test = paired.get(name)
        rows.append(
            (name, f"{score['mean']:.3f} ± {score['deviation']:.3f}",
             f"{test['mean_difference']:+.3f}" if test else "", f"{test['p_value']:.3f}" if test else "",
             f"{thesis[name]:.4f}" if thesis.get(name) else "")
        )  # fmt: skip
    o = d["options"]
    patients = next(iter(paired.values()))["patients"]
    return _join(
        f"## {title}",
        _made(d["command"], f"lv_sunnybrook_{regime}", d),
        f"Dice on the whole image, {_list(o['sizes'])} training slices of Sunnybrook, mean and deviation over seeds "
        f"{_list(o['seeds'])}. *Lead* is EDPCNN's mean over {patients} held-out patients minus the method's, p of "
        "Wilcoxon's signed-rank test over the patients.",
        _table(("method", "Dice", "lead of EDPCNN", "p", "thesis, ACDC, 10 slices"), rows),
    )


def _search(d: dict[str, Any]) -> str:
    rows = [
        (f"`{method}`", *(change.partition("=")[2] for change in each["change"]), f"{each['dice_whole']:.3f}")
        for method, candidates in d["candidates"].items()
        for each in candidates
    ]
    return _join(
        "## The search behind the tuned settings",
        _made(
            "python -m applications.lv_dp search --method METHOD --data png:DIR --out runs/search/METHOD",
            "lv_sunnybrook_search",
            d,
        ),
        "Dice on patients held out *within* the training patients of Sunnybrook, one seed; the first of each method "
        "was taken. The held-out patients of the tables were not looked at.",
        _table(("method", "learning rate", "schedule", "Dice"), rows),
    )


def _sizes(regime: str) -> str:
    """Write up one table with a column for each number of training slices, the thesis' number in brackets."""
    d = _read(f"lv_acdc_{regime}")
    sizes = d["options"]["sizes"]
    thesis = {(row["row"], row["column"]): row.get("published") for row in d["table"]}
    scores = {(s["row"], s["column"]): s for s in d["scores"] if s["score"] == "dice_whole"}
    paired = {(p["row"], p["column"]): p for p in d["paired"] if p["score"] == "dice_whole"}
    rows = []
    for name in dict.fromkeys(row for row, _ in scores):
        cells = [name]
        for size in sizes:
            score, test, printed = (found.get((name, size)) for found in (scores, paired, thesis))
            text = f"{score['mean']:.3f} ± {score['deviation']:.3f}"
            text += f", {test['mean_difference']:+.3f}, p {test['p_value']:.2g}" if test else ""
            cells.append(text + (f" ({printed:.4f})" if printed else ""))
        rows.append(tuple(cells))
    patients = next(iter(paired.values()))["patients"]
    return _join(
        f"## ACDC, {regime}",
        _made(d["command"], f"lv_acdc_{regime}", d),
        f"Dice on the whole image by the number of training slices, mean and deviation over seeds "
        f"{_list(d['options']['seeds'])}; then EDPCNN's lead over {patients} held-out patients with p of Wilcoxon's "
        "signed-rank test; in brackets the thesis' number on its own held-out patients.",
        _table(("method", *map(str, sizes)), rows),
    )


def _estimators(d: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", _spread(row["dice_whole"], 3), row["evaluations"], f"{row['seconds']:.0f}")
        for name, row in d["rows"].items()
    ]
    return _join(
        "## Estimators through the dynamic program",
        _made("python -m benchmarks.left_ventricle_table --runs runs/table", "left_ventricle_table", d),
        f"Dice on the whole image, {d['held_out_count']} held-out slices; evaluations and seconds are of one training.",
        _table(("method", "Dice", "evaluations", "seconds"), rows),
    )


def _published(d: dict[str, Any]) -> str:
    sizes = list(d["thesis"]["edpcnn"])
    parts = ["## The thesis and the later publication"]
    for source, methods in d.items():
        rows = [(f"`{name}`", *(scores.get(size, "") for size in sizes)) for name, scores in methods.items()]
        parts += [f"Dice on ACDC as printed in the {source}, by the number of training slices:",
                  _table(("method", *sizes), rows)]  # fmt: skip
    return _join(*parts)


def _made(command: str, name: str, d: dict[str, Any]) -> str:
    """Say how the numbers came about."""
    versions = ", ".join(f"{key} {value}" for key, value in d["versions"].items())
    threads = f", {d['threads']} thread" if "threads" in d else ""
    return f"```sh\n{command}\n```\n\n{{.made}}\n`benchmarks/results/{name}.json`; {d['device']}{threads}; {versions}."


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def _join(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def _table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(cell: object) -> str:
    return re.sub(r"\s+", " ", str(cell)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Keep what looks like a marker of Markdown as it is."""
    return re.sub(r"([*_<\[])", r"\\\1", text)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(value).replace("_", "\\_") for value in values)


def _budgets(c: dict[str, Any]) -> str:
    return _list([*c["evaluations"], *(f"{f:g} n" for f in c["fractions"])])
