"""Number formats of the printed results."""

from __future__ import annotations

import math


def percent(share: float) -> str:
    """Two significant digits, at most 9999 %."""
    if not math.isfinite(share):
        return "inf" if share > 0 else "nan"
    return f"{float(f'{100 * share:.2g}'):g} %" if share < 99.99 else "> 9999 %"


def number(value: float) -> str:
    """Two significant digits, for something to type."""
    return f"{value:.2g}"
