"""What to change about a gradient: each rule is a function from the measured numbers to a sentence, or None."""

from __future__ import annotations

import math
from collections.abc import Callable

from ndgrad.diagnostics.diagnosis import Advice, Diagnosis
from ndgrad.diagnostics.landscape import DRAWS
from ndgrad.diagnostics.wording import number, percent

_BIASED = 0.1  # share of the gradient's norm above which a bias is worth a word
_NOISY = 0.7  # signal-to-noise ratio below which noise is worth a word
_UNFIT = 0.5  # error of the surrogate's differences above which its gradient is mostly wrong


def advise(d: Diagnosis) -> tuple[Advice, ...]:
    """Apply all rules, the most fundamental first."""
    found = [rule(d) for rule in RULES]
    return tuple(advice for advice in found if advice is not None)


def sigma_too_small(d: Diagnosis) -> Advice | None:
    """All draws of most rows give the same value."""
    if d.landscape is None or d.landscape.still_rows <= 0.5:
        return None
    seen = (
        f"in {percent(d.landscape.still_rows)} of the rows all {DRAWS} draws of width {d.landscape.sigma:.3g} around "
        "the input gave the same output, so no gradient can be seen"
    )
    wider = d.landscape.moving_sigma
    if wider is None:
        return Advice("constant output", f"{seen}, nor at any width up to {2.0**20 * d.landscape.sigma:.0e}")
    return Advice(
        "sigma too small", f"{seen}; they first differ at {number(wider)}: type sigma={number(wider)}"
    )


def piecewise_constant(d: Diagnosis) -> Advice | None:
    """Difference quotients vanish, values do not."""
    if d.landscape is None or not d.landscape.piecewise_constant:
        return None
    seen = (
        f"{percent(d.landscape.flat)} of the difference quotients with small steps are 0, although the values vary "
        f"over sigma = {d.landscape.sigma:.3g} by {d.landscape.spread:.3g}"
    )
    if d.sigma is None:
        typed = f"ndgrad.EvolutionStrategy(sigma={number(d.landscape.sigma)})"
        return Advice("piecewise constant", f"{seen}; finite differences see nothing of it: type {typed}")
    return Advice(
        "piecewise constant",
        f"{seen}; only the smoothed gradient exists, and sigma decides which steps it sees",
    )


def noisy(d: Diagnosis) -> Advice | None:
    """Answer to a function that gives different values at the same input."""
    if d.landscape is None or not d.landscape.noisy:
        return None
    share = d.landscape.noise / d.landscape.spread if d.landscape.spread else math.inf
    seen = (
        f"the same input gave values that vary by {d.landscape.noise:.3g}, {percent(share)} of what they vary by over "
        f"sigma = {d.landscape.sigma:.3g}"
    )
    if d.sigma is None:
        typed = f"ndgrad.EvolutionStrategy(sigma={number(d.landscape.sigma)})"
        return Advice("noisy function", f"{seen}; differences divide that by their step: type {typed}")
    remedy = "fix the function's random numbers inside one call if it has any"
    if share > 0.5:
        remedy += f", or type sigma={number(2 * d.sigma)}: the noise of the gradient falls as 1/sigma"
    return Advice("noisy function", f"{seen}; {remedy}")


def sigma_too_large(d: Diagnosis) -> Advice | None:
    """Halving sigma moves the smoothed gradient of a continuous function."""
    if d.smoothing is None or d.landscape is None or d.sigma is None:
        return None
    if d.landscape.discontinuous or not d.smoothing.significant or d.smoothing.relative < _BIASED:
        return None
    smaller = d.sigma * math.sqrt(_BIASED / 2 / d.smoothing.relative)  # the bias goes as sigma squared
    return Advice(
        "sigma too large",
        f"at half of sigma = {d.sigma:.3g} the smoothed gradient changes by {percent(d.smoothing.relative)} (noise "
        f"alone would show {percent(d.smoothing.relative_error)}), so that smoothing bends it; type "
        f"sigma={number(smaller)}",
    )


def budget_below_dimension(d: Diagnosis) -> Advice | None:
    """Fewer draws than inputs, by an estimator that forgets."""
    n = d.gradient.shape[1]
    if d.num_samples is None or not d.consistent or d.num_samples >= n:
        return None
    S = d.num_samples
    return Advice(
        "budget below dimension",
        f"{S} draws in {n} inputs see at best {percent(S / n)} of the squared gradient (relative variance n/S - 1 = "
        f"{n / S - 1:.3g}); type num_samples={n}, or ndgrad.DiffBypass(replay=4), which keeps what it learned, or "
        "wrap a function of fewer inputs",
    )


def noise_dominates(d: Diagnosis) -> Advice | None:
    """One estimate is mostly noise."""
    if d.snr >= _NOISY or not d.consistent or not d.gradient.any():
        return None
    if d.snr == 0:
        return Advice(
            "no signal",
            f"the mean of {d.repeats} estimates does not stand out of its own noise; type repeats={10 * d.repeats} "
            "here to look closer, and more num_samples in the estimator",
        )
    more = "" if d.num_samples is None else f": type num_samples={math.ceil(d.num_samples / d.snr**2)}"
    return Advice(
        "noise dominates",
        f"one estimate has {1 / d.snr:.2g} times as much noise as signal; 1/snr^2 = {1 / d.snr**2:.2g} times the draws "
        f"would make them equal{more} (an optimiser's averaging over steps does the same)",
    )


def surrogate_unfit(d: Diagnosis) -> Advice | None:
    """Slopes of the network are wrong, whatever its values are."""
    if d.gradient_error is None or d.value_error is None or d.gradient_error < _UNFIT:
        return None
    values = f"although its values only by {percent(d.value_error)}"
    if d.value_error > d.gradient_error / 2:
        values = f"and its values by {percent(d.value_error)}"
    return Advice(
        "surrogate unfit",
        f"the network's differences, which the gradient sees, are wrong by {percent(d.gradient_error)}, "
        f"{values} (before each fit); type a larger fit_steps, or replay=4, or call the module more often before "
        "judging it",
    )


def biased(d: Diagnosis) -> Advice | None:
    """Bias of an estimator without a guarantee."""
    if d.bias is None or not d.bias.significant or d.bias.relative < _BIASED or d.consistent:
        return None
    assert d.reference is not None
    return Advice(
        "biased",
        f"the mean estimate is {percent(d.bias.relative)} away from the gradient of {d.reference.name} (noise alone "
        f"would show {percent(d.bias.relative_error)}); this estimator has no guarantee, see its documentation",
    )


RULES: tuple[Callable[[Diagnosis], Advice | None], ...] = (
    sigma_too_small,
    piecewise_constant,
    noisy,
    sigma_too_large,
    budget_below_dimension,
    noise_dominates,
    surrogate_unfit,
    biased,
)
