"""Modules whose ``state_dict`` holds the state of their private random generator."""

from __future__ import annotations

from typing import Any

import torch


class KeepsGenerator(torch.nn.Module):
    """A module with a ``generator``, whose state is the entry ``"generator"`` of its state dict; none without one.

    A state dict without that entry leaves the generator as it is.
    """

    generator: torch.Generator | None = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.generator is not None:
            destination[prefix + "generator"] = self.generator.get_state()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state = None if self.generator is None else state_dict.pop(prefix + "generator", None)
        if self.generator is not None and state is not None:
            self.generator.set_state(state.cpu())  # map_location may have moved it
        super()._load_from_state_dict(state_dict, prefix, *args)
