"""Pages of measured numbers, read from the files that the measuring commands wrote."""

from __future__ import annotations

from left_ventricle_page import left_ventricle
from measured_page import measured
from peers_page import peers
from robustness_page import robustness


def pages() -> dict[str, str]:
    """Return the text of each page by its path."""
    return {
        "results/measured.md": measured(),
        "results/peers.md": peers(),
        "results/left_ventricle.md": left_ventricle(),
        "results/robustness.md": robustness(),
    }
