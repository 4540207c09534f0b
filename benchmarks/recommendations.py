"""Does ``ndgrad.recommend`` take the right estimator? Its choice against every candidate, on every task.

    python -m benchmarks.recommendations

For each task and seed the recommendation tries short descents; then every candidate, the recommended one among
them, descends for longer and under other seeds with the same evaluations per gradient. The figure of a choice is
its mean reduction of the objective over the best mean reduction of any candidate. The heart is descended on its
maps, like the others, not by training its network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro

import ndgrad
from benchmarks.names import select
from benchmarks.optimise import optimise
from benchmarks.provenance import provenance, write_json
from benchmarks.tasks import TASKS, Task

_LIMIT = 0.8  # of the best reduction, on at least nine of ten tasks


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ()
    """Names of tasks, separated by blanks or commas; none means all."""
    evaluations: int = 17
    """Budget of one gradient, per row, the value's own included."""
    seeds: int = 5
    """Recommendations per task, and descents of each candidate afterwards."""
    recommend_steps: int = 20
    """Steps of the descents that the recommendation tries."""
    steps: int = 40
    """Steps of the descents that judge it."""
    out: Path | None = None
    """Folder for recommendations.json; nothing is written without it. Tasks that it has, judged alike, stay."""


def main(config: Config) -> dict[str, Any]:
    """Judge the recommendations; prints and returns the results."""
    torch.set_num_threads(1)
    tasks = _judged_before(config)
    results: dict[str, Any] = {"tasks": tasks, "limit": _LIMIT} | provenance(config)
    for name in select("task", config.tasks, TASKS):
        if name not in tasks:
            tasks[name] = judge(TASKS[name](), config)
        results["good_tasks"] = sum(result["mean_ratio"] >= _LIMIT for result in tasks.values())
        write_json(config.out, "recommendations", results)  # after each: some take many minutes
    good, judged = results["good_tasks"], len(tasks)
    print(f"{good} of {judged} tasks reach a mean ratio of {_LIMIT} (at least 9 of 10 are asked for)")
    return results


def _judged_before(config: Config) -> dict[str, Any]:
    """Return the tasks that the file of an earlier run holds; none if its settings or versions were others."""
    path = None if config.out is None else config.out / "recommendations.json"
    if path is None or not path.exists():
        return {}
    earlier, now = json.loads(path.read_text()), provenance(config)
    which = {"tasks": None, "out": None}
    same = [e["configuration"] | which | {"versions": e["versions"]} for e in (earlier, now)]
    return earlier["tasks"] if same[0] == same[1] else {}


def judge(task: Task, config: Config) -> dict[str, Any]:
    """Compare the choices with the best of all candidates on one task."""
    task = _on_its_inputs(task)
    recommendations = [_recommend(task, config, seed) for seed in range(config.seeds)]
    makers = {_name(trial): trial.make for trial in recommendations[0].ranking}
    reductions = {name: _reduction(task, make, config) for name, make in makers.items()}
    best = max(reductions.values())
    chosen = [_name(recommendation.best) for recommendation in recommendations]
    ratios = [reductions[name] / best for name in chosen]
    result = {
        "mean_ratio": mean(ratios),
        "least_ratio": min(ratios),
        "ratios": ratios,
        "recommended": chosen,
        "best": max(reductions, key=lambda name: reductions[name]),
        "reductions": reductions,
        "evaluations_per_recommendation": mean(r.spent for r in recommendations),
    }
    print(
        f"{task.name}: mean ratio {result['mean_ratio']:.3f}, least {result['least_ratio']:.3f}; recommended "
        f"{', '.join(dict.fromkeys(chosen))}; best {result['best']}",
        flush=True,
    )
    return result


def _on_its_inputs(task: Task) -> Task:
    """Return the task with its quickest function and a plain descent on the loss."""
    objective = dataclasses.replace(task.objective, train=None)
    return dataclasses.replace(task, function=task.fast_function or task.function, objective=objective)


def _recommend(task: Task, config: Config, seed: int) -> ndgrad.Recommendation:
    return ndgrad.recommend(
        task.function,
        task.start,
        config.evaluations,
        loss=task.loss,
        optimizer=partial(torch.optim.Adam, lr=task.objective.learning_rate),
        steps=config.recommend_steps,
        seed=1000 * (seed + 1),
        interface=task.interface,
    )


def _reduction(task: Task, make: Callable[[], ndgrad.Estimator], config: Config) -> float:
    start, end = optimise(task, make, list(range(config.seeds)), config.steps)
    return start - end


def _name(trial: ndgrad.diagnostics.Trial) -> str:
    return trial.name if trial.sigma is None else f"{trial.name}, sigma = {trial.sigma:g}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
