"""The page of the library's own benchmarks."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from result_parts import join, listed, made, plain, read, spread, table


def measured() -> str:
    """Write up the library's own benchmarks, one section for each command."""
    return join(
        "# Accuracy and speed of the library",
        "Each section is one command; its numbers are read by the build from the file that the command wrote.",
        _descent(read("descent_path")),
        _at_the_input(read("bypass_at_the_input")),
        _accuracy(read("quadratic_sine_accuracy")),
        _overhead(read("overhead")),
        _executors(read("executors")),
        _parameterised("threshold_chain"),
        _parameterised("smooth_path"),
        _recommendations(read("recommendations")),
        _dynamic_programming(read("dynamic_programming")),
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
    rows = [(labels[name], spread(values, 3)) for name, values in d["relative_squared_errors"].items()]
    ratios = [(name.replace("_", " "), f"{value:.3f}") for name, value in d["ratios"].items()]
    return join(
        "## Squared error of the gradient along a descent",
        made("python -m benchmarks.descent_path", "descent_path", d),
        f"{c['steps']} steps of gradient descent with rate {c['learning_rate']}; mean and deviation over seeds "
        f"{listed(d['seeds'])} of |estimate - reference|², relative to |reference|². The reference is an average of "
        f"{c['pairs']} Gaussian pairs.",
        table(("estimator", "relative squared error"), rows),
        table(("ratio of squared errors", ""), ratios),
    )


def _at_the_input(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (name, *(f"{row[key][part]:+.2f}" for key in ("at_input", "around") for part in ("mean", "rms")))
        for name, row in d["rows"].items()
    ]
    return join(
        "## A bypass network at the input, where no sample lies",
        made("python -m benchmarks.bypass_at_the_input", "bypass_at_the_input", d),
        f'The left-ventricle model\'s network F with `forward="bypass"`, after {c["calls"]} calls with S = '
        f"{c['num_samples']}, K = {c['fit_steps']} and sigma = {c['sigma']:g} on maps that fall by {c['height']:g} "
        f"at a random radius. Error of its most likely index, of 48, on {c['asked']} fresh maps and on samples around "
        "them. Batch normalisation goes by the samples' statistics, noise included, and the input itself has none.",
        table(("normalisation", "at the input, mean", "rms", "at samples, mean", "rms"), rows),
    )


def _accuracy(d: dict[str, Any]) -> str:
    pairs = [(name, f"{value:.3g}") for name, value in d["pairs_relative_errors"].items()]
    single = [
        (f"orthogonal, baseline `{name}`", f"{value:.3f}", f"{d['expected_without_pairs'][name]:.3f}")
        for name, value in d["without_pairs_relative_error"].items()
    ]
    return join(
        "## Relative error of one gradient",
        made("python -m benchmarks.quadratic_sine_accuracy", "quadratic_sine_accuracy", d),
        f"f(x) = |x|² + ½ Σ sin 3xᵢ + 5, sigma = 0.05, mean over {len(d['seeds'])} seeds; true is the gradient of f "
        "itself. First 20 pairs in 10 dimensions (41 evaluations with the value's own):",
        table(("directions", "relative error"), pairs),
        "Then 39 draws in 100 dimensions without pairs. On a linear function S orthogonal directions leave "
        "√(n/S - 1), and with the leave-one-out baseline √(n/(S - 1) - 1):",
        table(("directions", "relative error", "on a linear function"), single),
    )


def _overhead(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (name, f"{ms:.2f}", f"{d['ratios'].get(name, 1):.2f}", d["limits"].get(name, ""))
        for name, ms in d["milliseconds"].items()
    ]
    return join(
        "## Overhead of a wrapped call",
        made("python -m benchmarks.overhead", "overhead", d),
        f"Value and gradient of a matrix product with {c['num_samples']} samples for each of {c['batch']} rows of "
        f"{c['num_inputs']} inputs and {c['num_outputs']} outputs, beside the same formula written by hand in torch.",
        table(("directions", "ms", "times bare", "limit of the test"), rows),
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
    return join(
        "## Worker processes",
        made("python -m benchmarks.executors", "executors", d),
        f"{c['rows']} rows of {1000 * c['seconds']:.0f} ms, one per chunk, with workers that have begun: "
        f"{d['serial_seconds']:.2f} s one after the other. The function sleeps, so that what is measured is the cost "
        "of handing rows out. All values equal the serial ones to the bit.",
        table(("workers", "s", "s by the model", "speed-up", "of the ideal", "ms per chunk"), rows),
        "One process hands all chunks out. Its time per chunk is what limits many workers: with N of them busy for T "
        "seconds per chunk, it must hand out N/T chunks per second. Speed-ups by the model, by rows per chunk:",
        table(("rows per chunk", *(f"{count} workers" for count in c["many"]), "limit"), many),
    )


def _recommendations(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (f"`{name}`", f"{each['mean_ratio']:.3f}", f"{each['least_ratio']:.3f}",
         plain("; ".join(dict.fromkeys(each["recommended"]))), plain(each["best"]))
        for name, each in d["tasks"].items()
    ]  # fmt: skip
    spent = fmean(each["evaluations_per_recommendation"] for each in d["tasks"].values())
    return join(
        "## Does `recommend` take the right estimator?",
        made(f"python -m benchmarks.recommendations --tasks {' '.join(c['tasks'])}", "recommendations", d),
        f"{c['seeds']} recommendations per task, each after {spent:,.0f} evaluations per row; then every candidate "
        f"descends for {c['steps']} steps with {c['evaluations']} evaluations per gradient. The ratio is the reduction "
        f"of the objective by the recommended one over that by the best of all; {d['good_tasks']} of {len(d['tasks'])} "
        f"tasks reach {d['limit']}. The left ventricle was not judged: its candidates take an hour and more.",
        table(("task", "mean ratio", "least ratio", "recommended", "best"), rows),
    )


def _parameterised(name: str) -> str:
    d = read(f"parameterised_{name}")
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
    return join(
        f"## Parameters inside a black box: {name.replace('_', ' ')}",
        made(f"python -m benchmarks.parameterised --problems {name}", f"parameterised_{name}", d),
        f"Keywords of the wrapped function, trained from outputs alone, {d['steps']} steps of {d['batch']} rows.",
        table(("seed", "parameter", "true", "found", "relative error", "seconds"), rows),
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
    return join(
        "## Closed-contour dynamic program",
        made("python -m benchmarks.dynamic_programming", "dynamic_programming", d),
        "Time of the thesis' algorithms 1 (loops) and 2 (dense tensors), and of one open Viterbi pass, which solves an "
        "easier problem, over that of each exact backend here; the slow ones are timed on few contours and scaled.",
        table(head, rows),
    )
