"""The page of the comparison with other libraries."""

from __future__ import annotations

from typing import Any

from result_parts import Cells, budgets, join, listed, made, plain, read, table


def peers() -> str:
    """Write up the comparison with other libraries."""
    d, large, speed = read("peers"), read("peers_large"), read("peers_speed")
    better = [v for v in d["verdicts"] if v["peer_better"]]
    return join(
        "# Beside other libraries",
        made("python -m benchmarks.compare_estimators --peers --tasks all --fractions 0.1 1 10", "peers", d),
        f"Of {d['tables']} tables (a task at a budget of evaluations), a peer's mean error is lower than that of our "
        f"best estimator by more than two standard errors in {len(better)}. They are listed like all others. *Ours* is "
        "the best of those that start afresh with every call, since none of the peers' learns. A budget of 0.1 n, 1 n "
        "or 10 n is that many times the number of inputs, and one for the value. What was run, each line one "
        "configuration, gathered by `python -m benchmarks.peers_summary`:",
        table(
            ("tasks", "budgets", "seeds"),
            [(listed(c["tasks"]), budgets(c), c["seeds"]) for c in d["configurations"]],
        ),
        "## Verdict on each task and budget",
        "Relative error |g - reference| / |reference|, mean ± standard error: 1 is what answering zero has. z is the "
        "difference of the means in standard errors, positive where ours is better. A *sampling* peer draws random "
        "directions, unlike one that takes differences along the axes.",
        table(("task", "budget", "evaluations", "peer better", "errors"), _verdicts(d)),
        "## In more dimensions",
        made(
            "python -m benchmarks.peers_summary --runs results/peers-large --name peers_large",
            "peers_large",
            large,
        ),
        "The same in up to 1000 dimensions, at a tenth as many evaluations.",
        table(("task", "budget", "evaluations", "peer better", "errors"), _verdicts(large)),
        "## Corrections",
        "Estimates with a known factor are compared after it was divided out, so that the comparison is of noise:",
        table(("estimator", "correction"), [(f"`{k}`", plain(v)) for k, v in d["conversions"].items()]),
        "How each was called:",
        table(("estimator", "note"), [(f"`{k}`", plain(v)) for k, v in d["notes"].items()]),
        _speed(speed),
    )


def _verdicts(d: dict[str, Any]) -> list[Cells]:
    word = {True: "**yes**", False: "no"}
    return [
        (f"`{v['task']}`", v["budget"], v["evaluations"], word[bool(v["peer_better"])], plain(v["sentence"]))
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
    return join(
        "## Speed",
        made("python -m benchmarks.peers_speed", "peers_speed", d),
        f"One gradient with {c['evaluations']} evaluations for each of {c['batch']} rows of {c['num_inputs']} inputs, "
        f"median of {c['repeats']}. `torchopt_sum_over_batch` is something else, and is no per-row estimate: one noise "
        "weight for the whole batch, with an error that is √B times larger ([why](../../concepts/per_row)). "
        f"Not timed, since they do not apply: {listed(d['skipped'])}.",
        table(("estimator", "ms", "times the quickest of ours", "times the slowest of ours"), rows),
    )
