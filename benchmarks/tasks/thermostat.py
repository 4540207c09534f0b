"""A compiled simulator called as a subprocess: a heated house in C, all rows through its standard input and output.

``thermostat.c`` is compiled when the task is made, by ``cc`` or what ``CC`` names.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.tasks.task import Objective, Task, TaskUnavailableError

_SOURCE = Path(__file__).with_name("thermostat.c")
_BATCH, _PERIODS = 4, 8


@cache
def compiled() -> Path:
    """Compile the simulator once per process, into a folder that goes with it.

    Raises:
        TaskUnavailableError: if there is no C compiler, or it fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise TaskUnavailableError("needs a C compiler: cc, or what CC names")
    folder = Path(tempfile.mkdtemp(prefix="ndgrad-thermostat-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = folder / "thermostat"
    command = [compiler, "-O2", "-ffp-contract=off", "-o", str(program), str(_SOURCE), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise TaskUnavailableError(f"{compiler} failed: {done.stderr.strip()}")
    return program


def energy_and_discomfort(settings: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, 8) -> (R, 2), by one run of the simulator for all rows."""
    done = subprocess.run(
        [compiled()], input=settings.astype(float).tobytes(), capture_output=True, check=True
    )
    return np.frombuffer(done.stdout).reshape(-1, 2).copy()


def thermostat_task() -> Task:
    compiled()
    rng = np.random.default_rng(8)
    return Task(
        name="thermostat",
        summary="a heated house in C, a subprocess: energy and discomfort from 8 settings of a thermostat",
        function=energy_and_discomfort,
        interface="numpy",
        start=torch.from_numpy(19 + rng.standard_normal((_BATCH, _PERIODS))).float(),
        sigma=0.3,
        loss=lambda y: y[:, 0] + 0.5 * y[:, 1],
        objective=Objective(name="cost", learning_rate=0.1),
    )
