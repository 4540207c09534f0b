"""Command line: ``python -m applications.lv_dp train|evaluate|reproduce``; ``--help`` after either lists options."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from applications.lv_dp import evaluate, train
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.errors import UsageError
from applications.lv_dp.experiments import console
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.runs import Row

Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[ReproduceConfig, tyro.conf.subcommand("reproduce", description=console.HELP)]
)
CONSOLE = Console()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a wrong path or value is one line on standard error and status 2."""
    config = tyro.cli(Command, args=arguments, prog="python -m applications.lv_dp")
    try:
        set_threads(config.threads)
        if isinstance(config, TrainConfig):
            _train(config)
        elif isinstance(config, EvaluateConfig):
            _evaluate(config)
        else:
            words = sys.argv[1:] if arguments is None else arguments
            console.run(config, CONSOLE, shlex.join(["python", "-m", "applications.lv_dp", *words]))
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def set_threads(count: int) -> None:
    """Let torch compute with ``count`` threads."""
    if count < 1:
        raise UsageError(f"--threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def _train(config: TrainConfig) -> None:
    if config.method == "unet":
        CONSOLE.print("method unet has no dynamic program in training: --estimator is ignored")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task("starting", total=None)

        def report(row: Row, iterations: int) -> None:
            progress.update(
                task, description=f"loss {row.loss:8.4f}", completed=row.iteration, total=iterations
            )
            if row.held_out_dice is not None:
                progress.console.print(f"iteration {row.iteration}: held-out Dice {row.held_out_dice:.4f}")

        results = train.main(config, report)
    _print_scores(results["held_out"], f"{results['held_out_count']} slices of held-out patients")
    CONSOLE.print(
        f"{results['seconds']:.0f} s in {config.settings.iterations} iterations; run in {config.out}"
    )


def _evaluate(config: EvaluateConfig) -> None:
    results = evaluate.main(config)
    _print_scores(
        results["methods"], f"{results['count']} slices, {results['dropped']} without an LV dropped"
    )
    CONSOLE.print(f"written to {config.json}")


def _print_scores(scores: dict[str, dict[str, float]], title: str) -> None:
    table = Table("method", "Dice, whole image", "Dice, star's square", title=title)
    for method, values in scores.items():
        table.add_row(method, f"{values['dice_whole']:.4f}", f"{values['dice_square']:.4f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    sys.exit(main())
