"""The Differentiable Bypass: the gradient of a network fitted online to the black box."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.autograd import attach
from ndgrad.estimator import Estimator, EvaluateIn, Pullback, RowFunction, Rows, as_tuple
from ndgrad.fitting import (
    Fit,
    FitQuality,
    Loss,
    default_decode,
    default_loss,
    default_network,
    measure,
    own_copy,
)
from ndgrad.sampling import gaussian
from ndgrad.scales import Scales, read_scales, scales_of
from ndgrad.surrogates import build_surrogate
from ndgrad.validation import one_of, positive_int


class DiffBypass(Estimator):
    r"""Gradient of a network g fitted to the function around the current input.

    .. math:: \phi \leftarrow \arg\min_\phi \sum_{s=1}^S
              L\left(g_\phi(x + \sigma\epsilon_s), f(x + \sigma\epsilon_s)\right), \qquad
              \frac{\partial f}{\partial x} \approx \frac{\partial g_\phi}{\partial x}(x)

    The fit takes K joint steps over all samples of the batch, always before the gradient is taken, and goes
    on from call to call. Normalisation layers are in train mode while fitting and in eval mode for the
    gradient.

    Cost: S evaluations per row, one forward and backward pass of g for each of the K steps. Biased, by as
    much as the slope of g differs from that of the smoothed f; low variance, since what was learned from
    earlier rows and calls stays. Take it for many calls at related inputs, where rows are alike and each
    affords few evaluations; not for a single gradient.

    In eval mode nothing is fitted and the value is ``f(x)``; a gradient asked for there uses g as it stands.

    Args:
        surrogate: network g of the same inputs (R, ...), copied and hidden: no optimiser of the caller's
            reaches it, while ``state_dict`` and ``.to`` do. None builds one on the first call: a small U-Net
            for one map (at least 8 x 8) and up to 16 numbers beside it, else a perceptron with two hidden
            layers of 128.
        sigma: sigma > 0, width of the exploration, in units of the input: a number, a tensor that broadcasts
            against one row of a single input, or a tuple with one of them for each differentiated input: first
            those among the arguments, then the parameters of ``wrap(parameters=...)``, both in their order.
        num_samples: S >= 1.
        fit_steps: K >= 1.
        loss: ``loss(g(z), f(z))`` to a scalar, for each output. None: mean squared error where shapes agree,
            cross-entropy where g returns class logits (R, C, ...) for indices (R, ...).
        replay: how many earlier calls' evaluations stay in the fit. They cost memory and time, no
            evaluations.
        forward: ``"straight_through"``: the value is ``f(x)``, its gradient that of ``decode(g(x))``; the fit
            runs in the backward pass and ``f(x)`` itself joins the samples. ``"bypass"`` (the thesis): while
            training the value is ``g(x)`` itself, in g's own language (logits, say); the fit runs in the
            forward pass.
        decode: translates g's output into that of f. None: the identity, or the expected index of class
            logits.
        optimizer: ``params -> torch.optim.Optimizer``; None for Adam with learning rate 1e-3.
        generator: source of the noise, on the input's device; None for torch's global one.

    ``quality`` holds a `FitQuality` after each fit, ``network`` the fitted network.

    Raises:
        ValueError: for an argument out of range, or shapes of g and f that no loss was given for.
        RuntimeError: for a gradient in eval mode before any fit; for ``forward="bypass"`` inside activation
            checkpointing or ``torch.func``, which would fit twice.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> estimator = ndgrad.DiffBypass(sigma=0.3, num_samples=32, fit_steps=200)
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> estimator(lambda x: x @ torch.tensor([[1.0], [-2.0]]), x).sum().backward()
        >>> x.grad.round(decimals=0)
        tensor([[ 1., -2.]])

    Source: thesis section 3.4, equations 3.11 and 3.12, and algorithm 3.

    """

    consistent = False

    def __init__(
        self,
        surrogate: nn.Module | None = None,
        sigma: Scales = 0.05,
        num_samples: int = 10,
        fit_steps: int = 10,
        loss: Loss | None = None,
        replay: int = 0,
        forward: str = "straight_through",
        decode: Callable[[Any], Tensor] | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sigma = read_scales("sigma", sigma)
        self.num_samples = positive_int("num_samples", num_samples)
        self.fit_steps = positive_int("fit_steps", fit_steps)
        self.replay = positive_int("replay", replay, least=0)
        self.mode = one_of("forward", forward, ("straight_through", "bypass"))
        self.loss = default_loss if loss is None else loss
        self.decode = decode
        self.optimizer = optimizer or functools.partial(torch.optim.Adam, lr=1e-3)
        self.generator = generator
        self.quality: FitQuality | None = None
        self._shapes: Any = None  # of a default network, kept so that it can be built again from a state dict
        # in a list, so that torch registers neither: parameters(), DDP and requires_grad_() must not reach them
        self._template = [surrogate]
        self._fits: list[Fit] = []

    @property
    def wants_constant_inputs(self) -> bool:  # type: ignore[override]
        """The network takes the same inputs in every call."""
        return True

    @property
    def network(self) -> nn.Module | None:
        """The fitted network; None before the first call of a default one."""
        return self._fits[0].network if self._fits else self._template[0]

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(x)`` or, while training with ``forward="bypass"``, ``g(x)``; see `Estimator.forward`."""
        if self.mode == "bypass" and self.training:
            return self._bypass(f, inputs)
        return attach(f, inputs, lambda x, y: self._linearize(f, x, y), evaluate_in)

    def _linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Fit in training, then differentiate the network at the inputs."""
        if inputs[0].shape[0] == 0:
            return lambda _: tuple(torch.zeros_like(x) for x in inputs)
        if self.training:
            self._fit(f, inputs, outputs)
        decode = lambda prediction: self._decoded(as_tuple(prediction), outputs)  # noqa: E731
        return _network_vjp(self._fitted(inputs[0]), inputs, decode)[1]

    def _bypass(self, f: RowFunction, inputs: Rows) -> Tensor | Rows:
        """Fit in forward and go on from the network's own output."""
        if (
            torch._C._current_graph_task_id() != -1
            or torch._C._functorch.peek_interpreter_stack() is not None
        ):
            raise RuntimeError(
                "DiffBypass(forward='bypass') fits in the forward pass, which activation checkpointing and torch.func "
                "run more than once; use forward='straight_through', which fits in the backward pass"
            )
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs) and inputs[0].shape[0] > 0:
            self._fit(f, tuple(x.detach() for x in inputs), None)
        outputs, pullback = _network_vjp(self._fitted(inputs[0]), inputs)
        values = outputs.detach() if isinstance(outputs, Tensor) else tuple(y.detach() for y in outputs)
        return attach(lambda *_: values, inputs, lambda *_: pullback)

    def _fit(self, f: RowFunction, inputs: Rows, outputs: Rows | None) -> None:
        """Draw, evaluate, and fit on S B rows, plus the B rows of the value where they are paid for."""
        with torch.no_grad():
            noise = [
                gaussian(self.num_samples, x.reshape(x.shape[0], x.shape[1:].numel()), self.generator)
                for x in inputs
            ]
            probes = tuple(
                (x + sigma * e.reshape(-1, *x.shape)).flatten(0, 1)
                for x, e, sigma in zip(inputs, noise, scales_of("sigma", self.sigma, inputs), strict=True)
            )  # (S B, ...)
            values = as_tuple(f(*probes))
        rows, targets = (
            (probes, values) if outputs is None else (_append(probes, inputs), _append(values, outputs))
        )
        if not self._fits:
            self._build(rows, targets)
        self._match(inputs[0])
        before, loss = self._fits[0].run(rows, targets, self.fit_steps, self.loss)
        self.quality = measure(self._decoded(before, targets), targets, inputs[0].shape[0], loss)

    def _build(self, rows: Rows, targets: Rows) -> None:
        network = self._template[0]
        if network is None:
            network, self._shapes = default_network(rows, targets)
        else:
            network = own_copy(network, rows[0])
        self._fits.append(Fit(network, self.optimizer, self.replay))

    def _fitted(self, like: Tensor) -> nn.Module:
        if not self._fits:
            raise RuntimeError(
                "the bypass network was never fitted, so it has no gradient to give; call the module in train mode "
                "first (module.train()), or load a state dict"
            )
        self._match(like)
        return self._fits[0].network.eval()

    def _match(self, like: Tensor) -> None:
        """Follow the inputs to their device and dtype."""
        parameter = next(self._fits[0].network.parameters(), like)
        if (parameter.device, parameter.dtype) != (like.device, like.dtype):
            self._fits[0].move(lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))

    def _decoded(self, predictions: Rows, targets: Rows) -> Rows:
        if self.decode is not None:
            return tuple(self.decode(g) for g in predictions)
        return tuple(default_decode(g, y) for g, y in zip(predictions, targets, strict=True))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for fit in self._fits:
            fit.move(fn)
        return super()._apply(fn, recurse)

    def get_extra_state(self) -> dict[str, Any]:
        """Return network, optimiser, replay and generator as plain tensors and numbers."""
        return {
            "fit": self._fits[0].state() if self._fits else None,
            "shapes": self._shapes,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`, building a default network that was not called yet."""
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"].cpu())
        self._fits.clear()
        if state["fit"] is None:
            return
        sample = next((t for t in state["fit"]["network"].values() if t.is_floating_point()), torch.zeros(()))
        if self._template[0] is not None:
            network = own_copy(self._template[0], sample)
        else:
            self._shapes = state["shapes"]
            network = build_surrogate(*self._shapes).to(sample.device, sample.dtype)
        self._fits.append(Fit(network, self.optimizer, self.replay))
        self._fits[0].load(state["fit"])

    def extra_repr(self) -> str:
        """Show the settings."""
        name = "default" if self._template[0] is None else type(self._template[0]).__name__
        return (
            f"surrogate={name}, sigma={self.sigma}, num_samples={self.num_samples}, fit_steps={self.fit_steps}, "
            f"replay={self.replay}, forward={self.mode!r}"
        )


def _network_vjp(
    network: nn.Module, inputs: Rows, decode: Callable[[Any], Any] = lambda prediction: prediction
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


def _append(rows: Rows, more: Rows) -> Rows:
    return tuple(torch.cat([a, b.to(a.dtype)]) for a, b in zip(rows, more, strict=True))
