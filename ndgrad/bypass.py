"""The network of the bypass estimators, hidden from everybody else's optimiser, with its state and its fit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.estimator import Pullback, Rows, as_tuple
from ndgrad.fit_losses import FitQuality, Loss, decoded, default_loss, measure
from ndgrad.fitting import Batch, Fit, FitPlan
from ndgrad.replay import Samples
from ndgrad.surrogates import Shapes, build_seeded, build_surrogate, calibrate
from ndgrad.validation import one_of, positive_int


class Bypass:
    """A network that is built on its first samples, fitted call by call, and differentiated in between.

    No Module, so that ``parameters()``, DDP and ``requires_grad_()`` of the estimator that holds it do not reach it;
    the estimator hands on its ``_apply`` to `move` and its extra state to `state` and `load`.
    """

    def __init__(
        self,
        surrogate: nn.Module | None,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        replay: int,
        plan: FitPlan,
        generator: torch.Generator | None = None,
    ) -> None:
        self.generator = generator
        self.template = surrogate
        self.optimizer = optimizer
        self.replay = replay
        self.plan = plan
        self.fit: Fit | None = None
        self.quality: FitQuality | None = None
        self._shapes: tuple[Shapes, Shapes] | None = (
            None  # of a default network, to build it from a state dict
        )

    @classmethod
    def with_options(
        cls,
        surrogate: nn.Module | None,
        *,
        fit_steps: int,
        loss: Loss | None,
        replay: int,
        match: str,
        decode: Callable[[Any], Tensor] | None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None,
        generator: torch.Generator | None,
        **fit: Any,
    ) -> Bypass:
        """Check the options that estimators with a network share, and fill in their defaults.

        ``fit`` holds further fields of the `FitPlan`, checked.
        """
        plan = FitPlan(
            steps=positive_int("fit_steps", fit_steps),
            loss=default_loss if loss is None else loss,
            decode=functools.partial(decoded, decode),
            match=one_of("match", match, ("value", "difference")),
            **fit,
        )
        optimizer = optimizer or functools.partial(torch.optim.Adam, lr=1e-3)
        return cls(surrogate, optimizer, positive_int("replay", replay, least=0), plan, generator)

    @property
    def network(self) -> nn.Module | None:
        """The fitted network; None before the first call of a default one."""
        return self.fit.network if self.fit is not None else self.template

    def learn(self, samples: Samples, least: int = 1) -> None:
        """Fit to these samples, of which ``least`` around each input must have come back, and the replayed ones."""
        samples = samples.failed_last(max(least, self.plan.num_held_out(samples) + 1))
        batch = Batch([samples])
        fit = self._match(samples.inputs[0], self.fit or self._build(batch))
        before, loss = fit.run(samples, self.plan)
        centred = batch.centred if len(batch.targets[0]) > samples.num_centers else None
        self.quality = measure(self.plan.decode(before, batch.targets), batch.targets, centred, loss)

    def frozen(self, like: Tensor) -> nn.Module:
        """Return a copy of the network in eval mode, on the device and in the dtype of ``like``.

        A copy, because a pullback may be called after later fits have changed the network.
        """
        if self.fit is None:
            raise RuntimeError(
                "the bypass network was never fitted, so it has no gradient to give; call the module in train mode "
                "first (module.train()), with num_samples >= 1 or after observe, or load a state dict"
            )
        network = self._match(like, self.fit).network
        return copy.deepcopy(network).requires_grad_(False).eval()

    def _build(self, samples: Batch) -> Fit:
        rows, targets = samples.inputs, samples.targets
        if self.template is None:
            self._shapes = _row_shapes(rows), _row_shapes(targets)
            network = self._default(*self._shapes).to(rows[0].device, rows[0].dtype)
            calibrate(network, rows, targets)
        else:
            network = self._own_copy(rows[0])
        self.fit = Fit(network, self.optimizer, self.replay)
        return self.fit

    def _default(self, inputs: Shapes, outputs: Shapes) -> nn.Module:
        """Build a default network, its weights from the estimator's own generator where it has one."""
        if self.generator is None:
            return build_surrogate(inputs, outputs)
        seed = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
        return build_seeded(int(seed), inputs, outputs)

    def _own_copy(self, like: Tensor) -> nn.Module:
        return copy.deepcopy(self.template).to(like.device, like.dtype)  # type: ignore[union-attr]

    def _match(self, like: Tensor, fit: Fit) -> Fit:
        """Follow the inputs to their device and dtype."""
        parameter = next(fit.network.parameters(), like)
        if (parameter.device, parameter.dtype) != (like.device, like.dtype):
            fit.move(lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))
        return fit

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply ``function`` (as of ``Module.to``) to all that the fit holds."""
        if self.fit is not None:
            self.fit.move(function)

    def state(self) -> dict[str, Any]:
        """Return network, optimiser and replay as plain tensors and numbers."""
        return {"fit": None if self.fit is None else self.fit.state(), "shapes": self._shapes}

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`, building a default network that was not called yet."""
        self.fit = None
        if state["fit"] is None:
            return
        sample = next((t for t in state["fit"]["network"].values() if t.is_floating_point()), torch.zeros(()))
        if self.template is not None:
            network = self._own_copy(sample)
        else:
            _require_fit(state["shapes"], state["fit"]["network"])
            # the weights are replaced: with a generator of its own, nothing is drawn for them
            build = build_surrogate if self.generator is None else functools.partial(build_seeded, 0)
            network = build(*state["shapes"]).to(sample.device, sample.dtype)
            self._shapes = state["shapes"]
        self.fit = Fit(network, self.optimizer, self.replay)
        self.fit.load(state["fit"])

    def name(self) -> str:
        """Say what network this is, for a repr."""
        return "default" if self.template is None else type(self.template).__name__


def network_vjp(
    network: Callable[..., Any], inputs: Rows, decode: Callable[[Any], Any] = lambda prediction: prediction
) -> tuple[Any, Pullback]:
    """Return ``decode(network(*inputs))`` and its pullback to the inputs; parameters receive no gradient."""
    with torch.enable_grad():
        x = tuple(t.detach().requires_grad_() for t in inputs)
        outputs = decode(network(*x))

    def pullback(cotangents: Rows) -> Rows:
        y = as_tuple(outputs)
        v = tuple(c.to(t.dtype) for c, t in zip(cotangents, y, strict=True))
        return torch.autograd.grad(y, x, v, retain_graph=True, materialize_grads=True)

    return outputs, pullback


def _require_fit(shapes: tuple[Shapes, Shapes], weights: dict[str, Tensor]) -> None:
    """Require that the tensors of a state dict, which may come from anywhere, fill the network it speaks of."""
    with torch.device("meta"):  # shapes without memory
        expected = build_surrogate(*shapes).state_dict()
    if {name: t.shape for name, t in weights.items()} != {name: t.shape for name, t in expected.items()}:
        raise ValueError(
            f"the network of the state dict does not have the layers that its inputs and outputs need, {shapes}; "
            "load one that this version saved"
        )


def _row_shapes(tensors: Rows) -> Shapes:
    return [tuple(t.shape[1:]) for t in tensors]
