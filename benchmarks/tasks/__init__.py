"""The tasks, by name. A new task is one file here and one line below.

A comparison that names no tasks runs the first few, which take two minutes; ``--tasks all`` runs every one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.tasks.image_chain import image_chain_task
from benchmarks.tasks.left_ventricle import left_ventricle_task
from benchmarks.tasks.matching import matching_task
from benchmarks.tasks.quadratic_sine import (
    noisy_quadratic_sine_task,
    quadratic_sine_2_task,
    quadratic_sine_100_task,
    quadratic_sine_1000_task,
    quadratic_sine_10000_task,
    quadratic_sine_rows_task,
    quadratic_sine_task,
)
from benchmarks.tasks.ranking import ranking_task
from benchmarks.tasks.rounded_tanh import rounded_tanh_task
from benchmarks.tasks.salesman import salesman_task
from benchmarks.tasks.shortest_path import shortest_path_task
from benchmarks.tasks.sign_layer import sign_layer_task
from benchmarks.tasks.sorting import sorting_task
from benchmarks.tasks.staircase import (
    staircase_2_task,
    staircase_30_task,
    staircase_300_task,
    staircase_10000_task,
)
from benchmarks.tasks.tandem_queue import tandem_queue_task
from benchmarks.tasks.task import Objective, Task, TaskUnavailableError
from benchmarks.tasks.terrain_path import terrain_path_task
from benchmarks.tasks.thermostat import thermostat_task
from benchmarks.tasks.tree_ensemble import tree_ensemble_task

_QUICK: Mapping[str, Callable[[], Task]] = {
    "quadratic_sine": quadratic_sine_task,
    "quadratic_sine_100": quadratic_sine_100_task,
    "noisy_quadratic_sine": noisy_quadratic_sine_task,
    "sign_layer": sign_layer_task,
    "rounded_tanh": rounded_tanh_task,
    "ranking": ranking_task,
    "shortest_path": shortest_path_task,
    "tandem_queue": tandem_queue_task,
    "left_ventricle": left_ventricle_task,
}

_MORE: Mapping[str, Callable[[], Task]] = {
    "quadratic_sine_2": quadratic_sine_2_task,
    "quadratic_sine_1000": quadratic_sine_1000_task,
    "quadratic_sine_10000": quadratic_sine_10000_task,
    "quadratic_sine_rows": quadratic_sine_rows_task,
    "staircase_2": staircase_2_task,
    "staircase_30": staircase_30_task,
    "staircase_300": staircase_300_task,
    "staircase_10000": staircase_10000_task,
    "tree_ensemble": tree_ensemble_task,
    "sorting": sorting_task,
    "matching": matching_task,
    "terrain_path": terrain_path_task,
    "salesman": salesman_task,
    "image_chain": image_chain_task,
    "thermostat": thermostat_task,
}
TASKS: Mapping[str, Callable[[], Task]] = {**_QUICK, **_MORE}
DEFAULT_TASKS = tuple(_QUICK)

__all__ = ["DEFAULT_TASKS", "TASKS", "Objective", "Task", "TaskUnavailableError"]
