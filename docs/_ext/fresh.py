"""Each tutorial starts with the same random numbers and with torch's own settings."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def reset(gallery: dict[str, Any], file: str) -> None:
    """Seed every global generator; called by the gallery before each tutorial."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - black boxes may use it
    random.seed(0)
    torch.set_num_threads(1)
