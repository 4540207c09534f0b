"""Command line: ``python -m applications.lv_dp COMMAND``; ``--help`` lists commands, and after one its options."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from applications.lv_dp import compare, evaluate, inspect_data, release, search, segment, tables, train
from applications.lv_dp.compare import CompareConfig
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.errors import UsageError
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.inspect_data import DataConfig
from applications.lv_dp.release import ExportConfig
from applications.lv_dp.runs import Row
from applications.lv_dp.search import SearchConfig
from applications.lv_dp.segment import SegmentConfig

Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[SearchConfig, tyro.conf.subcommand("search")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[SegmentConfig, tyro.conf.subcommand("segment")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[DataConfig, tyro.conf.subcommand("data")]
)
CONSOLE = Console()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a wrong path or value is one line on standard error and status 2."""
    words = sys.argv[1:] if arguments is None else arguments
    config = tyro.cli(_commands(words), args=words, prog="python -m applications.lv_dp")
    try:
        refuse_repeated(config, words)
        set_threads(config.threads)
        _run(config, words)
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _commands(words: list[str]) -> Any:
    """Return all commands; the list of experiments, which loads matplotlib, only where it is asked for."""
    description: str | None = None
    if words[:1] == ["reproduce"]:
        from applications.lv_dp.experiments import console

        description = console.HELP
    return Command | Annotated[ReproduceConfig, tyro.conf.subcommand("reproduce", description=description)]


def _run(config: Command | ReproduceConfig, words: list[str]) -> None:
    match config:
        case TrainConfig():
            _train(config)
        case SearchConfig():
            _search(config)
        case EvaluateConfig():
            _evaluate(config)
        case DataConfig():
            CONSOLE.print(inspect_data.table(inspect_data.main(config)))
        case ReproduceConfig():
            from applications.lv_dp.experiments import console  # loads matplotlib

            console.run(config, CONSOLE, shlex.join(["python", "-m", "applications.lv_dp", *words]))
        case CompareConfig():
            _compare(config)
        case SegmentConfig():
            _segment(config)
        case ExportConfig():
            _export(config)


def refuse_repeated(config: Command | ReproduceConfig, words: list[str]) -> None:
    """Refuse an option of several values that is given twice: the parser would forget the first ones."""
    given = Counter(word.partition("=")[0].replace("_", "-") for word in words)
    for name, value in vars(config).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple) and given[option] > 1:
            raise UsageError(f"{option} is given twice; give it once, with all values behind it")


def set_threads(count: int) -> None:
    """Let torch compute with ``count`` threads."""
    if count < 1:
        raise UsageError(f"--threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def _say(line: str) -> None:
    """Print one line as it stands: names of files may hold brackets, and be long."""
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def _train(config: TrainConfig) -> None:
    _say(tables.training_line(config.num_train, config.data))
    if config.method != "edpcnn":
        CONSOLE.print(f"method {config.method} has no black box in training: --estimator is ignored")
    with _progress() as report:
        results = train.main(config, report)
    title = f"{results['held_out_count']} slices of held-out patients"
    CONSOLE.print(tables.training_table(results["held_out"], title))
    CONSOLE.print(
        f"{results['seconds']:.0f} s in {config.settings.iterations} iterations; run in {config.out}"
    )


@contextmanager
def _progress() -> Iterator[train.Report]:
    """Show a bar, and a line for every score on held-out patients."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task("starting", total=None)

        def report(row: Row, iterations: int) -> None:
            progress.update(
                task, description=f"loss {row.loss:8.4f}", completed=row.iteration, total=iterations
            )
            if row.held_out_dice is not None:
                progress.console.print(f"iteration {row.iteration}: held-out Dice {row.held_out_dice:.4f}")

        yield report


def _search(config: SearchConfig) -> None:
    with _progress() as report:
        results = search.main(config, report)
    CONSOLE.print(tables.search_table(results["candidates"]))
    CONSOLE.print(f"written to {config.out / 'search.json'}")


def _evaluate(config: EvaluateConfig) -> None:
    results = evaluate.main(config)
    dropped = "; ".join(f"{count} dropped: {reason}" for reason, count in results["drop_reasons"].items())
    title = f"{results['count']} slices" + (f"; {dropped}" if dropped else "")
    for table in tables.evaluation_tables(results["methods"], title):
        CONSOLE.print(table)
    if results["count_trained_on"]:
        _say(tables.trained_on_line(results["count_trained_on"], results["count"]))
    CONSOLE.print(f"written to {config.json}")


def _compare(config: CompareConfig) -> None:
    comparisons = compare.main(config)
    CONSOLE.print(tables.comparison_table(comparisons, comparisons[0].reference))


def _segment(config: SegmentConfig) -> None:
    _say(tables.segmentation_line(segment.main(config)))
    CONSOLE.print(f"written to {config.out}" + (f" and {config.overlay}" if config.overlay else ""))


def _export(config: ExportConfig) -> None:
    description = release.export(config)
    CONSOLE.print(f"{description['method']} trained on {description['trained_on']}; written to {config.out}")


if __name__ == "__main__":
    sys.exit(main())
