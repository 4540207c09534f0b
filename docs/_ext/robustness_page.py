"""The page of figures on damaged and hostile files, and on trainings that were killed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from result_parts import join, made, read, table


def robustness() -> str:
    """Write up both commands."""
    return join(
        "# Hostile files and killed trainings",
        "What is read may have been sent by anybody, and what trains may end at any moment.",
        _fuzz(read("fuzz_loaders")),
        _kills(read("kill_and_resume")),
    )


def _fuzz(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = [
        (name, f["inputs"], f["errors"], f["results"], f["findings"], f["through_the_command_line"], f["seconds"],
         f["slowest_seconds"])
        for name, f in d["formats"].items()
    ]  # fmt: skip
    head = ("file", "inputs", "errors of one line", "right results", "anything else", "through the command line",
            "seconds", "slowest")  # fmt: skip
    return join(
        "## Damaged and hostile files",
        made(
            f"python -m benchmarks.fuzz_loaders --inputs {c['inputs']} --seed {c['seed']}", "fuzz_loaders", d
        ),
        f"{d['inputs']} files in {d['seconds']:.0f} s: valid ones, drawn or trained by the command, with damaged bits, "
        "bytes, lines and header fields, under right checksums too, bombs of 400 MiB, archives with code or with paths "
        "that lead out, other formats under their names, folders, pipes, devices and links in their places. Each must "
        "give an error of one line (status 2 of the command line) or a result that passes the checks of its format; an "
        "independent reader of NIfTI headers is one of them. The process that loads may grow by "
        f"{c['memory'] / 2**20:.0f} MiB of address space (in memory it grew by "
        f"{d['largest_growth_bytes'] / 2**20:.0f} MiB), has {c['seconds']:g} s for an input, and is watched by an "
        "audit hook for what it writes outside the folder it may write to, and for what it executes.",
        table(head, rows),
        f"Anything else: {d['findings']}. A wrapped function's state is read by the user with `torch.load`, which "
        "allocates what a pickle asks for (`bytearray(n)`): that it meets the memory limit counts as an error there. "
        "The application's own loader refuses such a file before it is unpickled. What earlier runs of the command "
        "found has a test each, in `tests/lv_dp/test_hostile_files.py`.",
    )


def _kills(d: dict[str, Any]) -> str:
    c = d["configuration"]
    rows = []
    for job, found in d["jobs"].items():
        kills = [kill for kill in found["kills"] if kill["killed"]]  # the others had ended before
        phases = Counter(kill["phase"] for kill in kills)
        same = Counter(kill["phase"] for kill in kills if kill["same"])
        rows += [(job, phase, count, same[phase]) for phase, count in phases.items()]
    return join(
        "## Killed trainings",
        made(
            f"python -m benchmarks.kill_and_resume --kills {c['kills']} --seed {c['seed']}",
            "kill_and_resume",
            d,
        ),
        "`heart` is the smoke profile of the left-ventricle application on drawn hearts, `toy` a layer trained through "
        "a staircase with its evaluations in a cache. Each got SIGKILL at random moments, and the same command again. "
        "*Same* counts the runs that ended with the weights, optimisers, generators, losses and scores of an "
        "undisturbed one in every bit.",
        table(("training", "killed during", "kills", "same"), rows),
    )
