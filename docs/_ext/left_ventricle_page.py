"""The page of the left-ventricle tables, the thesis' beside ours."""

from __future__ import annotations

from typing import Any

from result_parts import join, listed, made, read, spread, table


def left_ventricle() -> str:
    """Write up the tables of the thesis beside ours."""
    return join(
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
        _search(read("lv_sunnybrook_search")),
        _misplaced(read("misplaced_contours")),
        _sizes("published", "ACDC, published"),
        _sizes("tuned", "ACDC, tuned"),
        _estimators(read("left_ventricle_table")),
        _published(read("lv_sunnybrook_published")["published"]),
        "## What was not measured",
        "Sunnybrook with more than 10 slices; ACDC with more than 200; the profiles `thesis` and `paper`; anything on "
        "a GPU. The thesis' scores are of other patients and other pixels, and selected on the held-out slices: the "
        "*order* of the methods can be compared with ours, the numbers cannot.",
    )


def _regime(regime: str, title: str) -> str:
    d = read(f"lv_sunnybrook_{regime}")
    whole = {s["row"]: s for s in d["scores"] if s["score"] == "dice_whole"}
    paired = {p["row"]: p for p in d["paired"] if p["score"] == "dice_whole"}
    thesis = {row["row"]: row.get("published") for row in d["table"]}
    rows = []
    for name, score in sorted(whole.items(), key=lambda item: -item[1]["mean"]):
        test = paired.get(name)
        rows.append(
            (name, f"{score['mean']:.3f} ± {score['deviation']:.3f}",
             f"{test['mean_difference']:+.3f}" if test else "", _p(test["p_value"]) if test else "",
             f"{thesis[name]:.4f}" if thesis.get(name) else "")
        )  # fmt: skip
    o = d["options"]
    patients = next(iter(paired.values()))["patients"]
    return join(
        f"## {title}",
        made(d["command"], f"lv_sunnybrook_{regime}", d),
        f"Dice on the whole image, {listed(o['sizes'])} training slices of Sunnybrook, mean and deviation over seeds "
        f"{listed(o['seeds'])}. *Lead* is EDPCNN's mean over {patients} held-out patients minus the method's, p of "
        "Wilcoxon's signed-rank test over the patients.",
        table(("method", "Dice", "lead of EDPCNN", "p", "thesis, ACDC, 10 slices"), rows),
    )


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _search(d: dict[str, Any]) -> str:
    rows = [
        (f"`{method}`", *(change.partition("=")[2] for change in each["change"]), f"{each['dice_whole']:.3f}")
        for method, candidates in d["candidates"].items()
        for each in candidates
    ]
    return join(
        "## The search behind the tuned settings",
        made(
            "python -m applications.lv_dp search --method METHOD --data png:DIR --out runs/search/METHOD",
            "lv_sunnybrook_search",
            d,
        ),
        "Dice on patients held out *within* the training patients of Sunnybrook, one seed; the first of each method "
        "was taken. The held-out patients of the tables were not looked at.",
        table(("method", "learning rate", "schedule", "Dice"), rows),
    )


def _misplaced(d: dict[str, Any]) -> str:
    """Write up each table with and without the patients whose contours lie beside the ventricle."""
    (patient,) = d["misplaced"]
    x, y = d["shifts"][patient]
    furthest = max(abs(side) for name, shift in d["shifts"].items() if name != patient for side in shift)
    rows = [
        (
            summary,
            f"`{row}`",
            *(f"{rows[part][row]['mean']:.3f}" for part in ("with", "without", "misplaced")),
        )
        for summary, rows in d["tables"].items()
        for row in rows["with"]
    ]
    tables = " ".join(f"runs/{name}/table-5-1.json" for name in d["tables"])
    return join(
        "## A patient whose contours are misplaced",
        made(
            f"python -m benchmarks.misplaced_contours --data png:DIR --tables {tables} --out benchmarks/results",
            "misplaced_contours",
            d,
        ),
        f"The masks of {patient} have most contrast to the ring around them {x:+.0f} pixels in x and {y:+.0f} in y "
        f"from where they were drawn (median over its slices); those of the {len(d['shifts']) - 1} other patients "
        f"at most {furthest:.0f} in either. Whoever looks at the image is scored against another place. The tables "
        "of this page keep the patient, as it was drawn; here they are without it.",
        table(("table", "method, training", "all patients", f"without {patient}", f"{patient} alone"), rows),
    )


def _sizes(table_name: str, title: str) -> str:
    """Write up one table with a column for each number of training slices, the thesis' number in brackets."""
    d = read(f"lv_acdc_{table_name}")
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
            text += f", {test['mean_difference']:+.3f}, p {_p(test['p_value'])}" if test else ""
            cells.append(text + (f" ({printed:.4f})" if printed else ""))
        rows.append(tuple(cells))
    patients = next(iter(paired.values()))["patients"]
    return join(
        f"## {title}",
        made(d["command"], f"lv_acdc_{table_name}", d),
        f"Dice on the whole image by the number of training slices, mean and deviation over seeds "
        f"{listed(d['options']['seeds'])}; then EDPCNN's lead over {patients} held-out patients with p of Wilcoxon's "
        "signed-rank test; in brackets the thesis' number on its own held-out patients.",
        table(("method", *map(str, sizes)), rows),
    )


def _estimators(d: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", spread(row["dice_whole"], 3), f"{row['evaluations']:.0f}", f"{row['seconds']:.0f}")
        for name, row in d["rows"].items()
    ]
    return join(
        "## Estimators through the dynamic program",
        made("python -m benchmarks.left_ventricle_table --runs runs/table", "left_ventricle_table", d),
        f"Dice on the whole image, {d['held_out_count']} held-out slices; evaluations of one iteration, seconds of "
        "one training on a shared machine.",
        table(("method", "Dice", "evaluations", "seconds"), rows),
    )


def _published(d: dict[str, Any]) -> str:
    sizes = list(d["thesis"]["edpcnn"])
    parts = ["## The thesis and the later publication"]
    for source, methods in d.items():
        rows = [(f"`{name}`", *(scores.get(size, "") for size in sizes)) for name, scores in methods.items()]
        parts += [f"Dice on ACDC as printed in the {source}, by the number of training slices:",
                  table(("method", *sizes), rows)]  # fmt: skip
    return join(*parts)
