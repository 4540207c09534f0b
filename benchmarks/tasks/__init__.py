"""The tasks, by name. A new task is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.tasks.left_ventricle import left_ventricle_task
from benchmarks.tasks.quadratic_sine import (
    noisy_quadratic_sine_task,
    quadratic_sine_100_task,
    quadratic_sine_task,
)
from benchmarks.tasks.ranking import ranking_task
from benchmarks.tasks.rounded_tanh import rounded_tanh_task
from benchmarks.tasks.shortest_path import shortest_path_task
from benchmarks.tasks.sign_layer import sign_layer_task
from benchmarks.tasks.tandem_queue import tandem_queue_task
from benchmarks.tasks.task import Objective, Task

TASKS: Mapping[str, Callable[[], Task]] = {
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

__all__ = ["TASKS", "Objective", "Task"]
