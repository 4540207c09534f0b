"""The Differentiable Bypass: the gradient of a network fitted online to the black box."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.autograd import attach
from ndgrad.bypass import Bypass, network_vjp
from ndgrad.bypass_estimator import BypassEstimator, has_numbers
from ndgrad.coordinates import Setting, as_setting, per_input, positive, show
from ndgrad.errors import UnsupportedTransformError
from ndgrad.estimator import EvaluateIn, Pullback, RowFunction, Rows, as_tuple
from ndgrad.fit_losses import Loss
from ndgrad.replay import Samples, concatenate
from ndgrad.sampling import gaussian
from ndgrad.validation import one_of, positive_float, positive_int


class DiffBypass(BypassEstimator):
    r"""Gradient of a network g fitted to the function around the current input.

    .. math:: \phi \leftarrow \arg\min_\phi \sum_{s=1}^S
              L\left(g_\phi(x + \sigma\epsilon_s), f(x + \sigma\epsilon_s)\right), \qquad
              \frac{\partial f}{\partial x} \approx \frac{\partial g_\phi}{\partial x}(x)

    The fit takes K joint steps over all samples of the batch, always before the gradient is taken, and goes
    on from call to call. Normalisation layers are in train mode while fitting and in eval mode for the
    gradient.

    Cost: S evaluations per row (S + 1 with ``fit_at_input``), one forward and backward pass of g for each of the K
    steps. Biased, by as
    much as the slope of g differs from that of the smoothed f; low variance, since what was learned from
    earlier rows and calls stays. Take it for many calls at related inputs, where rows are alike and each
    affords few evaluations; not for a single gradient.

    Failed evaluations take no part: not in this fit, in what is held out and in ``quality``, nor in later fits through
    the replay. Each row needs one that came back (two with ``fit_at_input``), and with ``patience``, ``f(x)``
    counted, one more than are held out.

    In eval mode nothing is fitted and the value is ``f(x)``; a gradient asked for there uses g as it stands.

    Args:
        surrogate: network g of the same inputs (R, ...), copied and hidden: no optimiser of the caller's
            reaches it, while ``state_dict`` and ``.to`` do. None builds one on the first call: a small U-Net
            for one map (at least 8 x 8) and up to 16 numbers beside it, else a perceptron with two hidden
            layers of 128.
        sigma: sigma > 0, width of the exploration, in units of the input: a number, a tensor that broadcasts
            to the row of a single input, or a tuple with one of these for each differentiated input, first
            those among the arguments, then the parameters of ``wrap(parameters=...)``.
        num_samples: S >= 0. With 0 it draws nothing and is fitted by `observe` alone.
        fit_steps: K >= 1, an upper limit where ``patience`` is given.
        loss: ``loss(g(z), f(z))`` to a scalar, for each output. None: mean squared error where shapes agree,
            cross-entropy where g returns class logits (R, C, ...) for indices (R, ...).
        replay: how many earlier calls' evaluations stay in the fit. They cost memory and time, no
            evaluations.
        forward: ``"straight_through"``: the value is ``f(x)``, its gradient that of ``decode(g(x))``; the fit
            runs in the backward pass and ``f(x)`` itself joins the samples. ``"bypass"`` (the thesis): while
            training the value is ``g(x)`` itself, in g's own language (logits, say); the fit runs in the
            forward pass, on the samples alone unless ``fit_at_input``.
        decode: translates g's output into that of f. None: the identity, or the expected index of class
            logits.
        optimizer: ``params -> torch.optim.Optimizer``; None for Adam with learning rate 1e-3.
        generator: source of the noise and of a default network's weights, on the input's device; None for torch's
            global one.
        trust_region: r > 0: of the replayed calls, only the inputs (with all their samples) stay in the fit whose
            root-mean-square distance per coordinate from the nearest current input is at most r sigma. A
            sample lies about sigma from its own input by this measure. None trusts all.
        match: ``"value"``, or ``"difference"``: the loss compares g with f after subtracting from each its mean
            over the samples around the same input. What the values of different inputs say is ignored, and
            the whole fit goes into the slope; the value of g and ``quality.value_error`` then mean nothing.
        patience: hold one sample in five (at least two) out of each fit, stop after so many steps without a
            lower loss there, and return to the best state met, the one before the fit included. The
            held-out samples join later fits through the replay. None takes all K steps.
        fit_at_input: with ``forward="bypass"``, evaluate ``f(x)`` as well, one evaluation more per row, and fit to it.
            Value and gradient are g's at x, where otherwise no sample lies. A network with batch normalisation then
            has the statistics of noisy samples, which x is not: it can be right around x and far off at it.

    ``quality`` holds a `FitQuality` after each fit, ``network`` the fitted network.

    Raises:
        ValueError: for an argument out of range, options that exclude each other, or shapes of g and f that no
            loss was given for.
        RuntimeError: for a gradient in eval mode before any fit.
        UnsupportedTransformError: (a NotImplementedError) for ``forward="bypass"`` inside activation checkpointing or
            ``torch.func``, which would fit twice.
        TooManyFailuresError: if a row has too few evaluations left.

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
    skips_failures = True

    def __init__(
        self,
        surrogate: nn.Module | None = None,
        sigma: Setting = 0.05,
        num_samples: int = 10,
        fit_steps: int = 10,
        loss: Loss | None = None,
        replay: int = 0,
        forward: str = "straight_through",
        decode: Callable[[Any], Tensor] | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        generator: torch.Generator | None = None,
        trust_region: float | None = None,
        match: str = "value",
        patience: int | None = None,
        fit_at_input: bool = False,
    ) -> None:
        super().__init__()
        self.sigma = as_setting("sigma", sigma, positive)
        self.num_samples = positive_int("num_samples", num_samples, least=0)
        self.mode = one_of("forward", forward, ("straight_through", "bypass"))
        self.generator = generator
        self.fit_at_input = fit_at_input
        _check(forward, match, patience, num_samples, fit_at_input)
        self.bypass = Bypass.with_options(
            surrogate,
            fit_steps=fit_steps,
            loss=loss,
            replay=replay,
            match=match,
            decode=decode,
            optimizer=optimizer,
            generator=generator,
            reach=None if trust_region is None else positive_float("trust_region", trust_region),
            widths=functools.partial(per_input, self.sigma),
            patience=None if patience is None else positive_int("patience", patience),
        )

    @property
    def exact_value(self) -> bool:  # type: ignore[override]
        """False while ``forward="bypass"`` is in training: the value is then the network's own."""
        return not (self.mode == "bypass" and self.training)

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(x)`` or, while training with ``forward="bypass"``, ``g(x)``; see `Estimator.forward`."""
        nothing_to_fit = self.bypass.fit is None and not has_numbers(inputs)
        if not self.exact_value and not nothing_to_fit:
            return self._bypass(f, inputs)
        return super().forward(f, *inputs, evaluate_in=evaluate_in)

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Fit in training, then differentiate the network at the inputs; see `VJPEstimator.linearize`."""
        if not has_numbers(inputs):
            return lambda _: tuple(torch.zeros_like(x) for x in inputs)
        if self.training and self.num_samples:
            self._fit(f, inputs, outputs)
        decode = lambda prediction: self.bypass.plan.decode(as_tuple(prediction), outputs)  # noqa: E731
        return network_vjp(self.bypass.frozen(inputs[0]), inputs, decode)[1]

    def observe(self, inputs: Rows, probes: Rows, values: Rows) -> None:
        """Fit to evaluations that were made for something else; see `Estimator.observe`."""
        if self.training and has_numbers(inputs):
            self.bypass.learn(Samples(probes, values, inputs))

    def _bypass(self, f: RowFunction, inputs: Rows) -> Tensor | Rows:
        """Fit in forward and go on from the network's own output."""
        if (
            torch._C._current_graph_task_id() != -1
            or torch._C._functorch.peek_interpreter_stack() is not None
        ):
            raise UnsupportedTransformError(
                "DiffBypass(forward='bypass') fits in the forward pass, which activation checkpointing and torch.func "
                "run more than once; use forward='straight_through', which fits in the backward pass"
            )
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs) and has_numbers(inputs):
            self._fit(f, tuple(x.detach() for x in inputs), None)
        outputs, pullback = network_vjp(self.bypass.frozen(inputs[0]), inputs)
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
                (x + sigma * e.reshape(self.num_samples, *x.shape)).flatten(0, 1)
                for x, e, sigma in zip(inputs, noise, per_input(self.sigma, inputs), strict=True)
            )  # (S B, ...)
            if self.fit_at_input:
                probes = concatenate([probes, inputs])
            values = as_tuple(f(*probes))
        if outputs is not None:
            probes, values = concatenate([probes, inputs]), concatenate([values, outputs])
        with_value = self.fit_at_input or outputs is not None
        self.bypass.learn(Samples(probes, values, inputs), least=2 if with_value else 1)

    def extra_repr(self) -> str:
        """Show the settings."""
        plan = self.bypass.plan
        settings = show(
            sigma=self.sigma,
            num_samples=self.num_samples,
            fit_steps=plan.steps,
            replay=self.bypass.replay,
            forward=self.mode,
            trust_region=plan.reach,
            match=plan.match,
            patience=plan.patience,
            fit_at_input=self.fit_at_input or None,
        )
        return f"surrogate={self.bypass.name()}, {settings}"


def _check(mode: str, match: str, patience: int | None, num_samples: int, fit_at_input: bool) -> None:
    if fit_at_input and mode != "bypass":
        raise ValueError(f"forward={mode!r} always fits to f(x), which is its value; leave fit_at_input out")
    if mode == "bypass" and match == "difference":
        raise ValueError(
            "forward='bypass' hands on the network's value, which match='difference' leaves free; type match='value'"
        )
    if mode == "bypass" and num_samples == 0:
        raise ValueError("forward='bypass' fits on samples of its own, num_samples >= 1; got 0")
    if patience is not None and 0 < num_samples < 4:
        raise ValueError(
            f"patience holds samples out of the fit and needs num_samples >= 4, got {num_samples}"
        )
