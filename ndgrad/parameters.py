"""Trained parameters of the wrapped function: made once, handed to it with one copy for each row."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.arguments import Argument, Leaf, lift


def make_parameters(
    fn: Callable[..., Any],
    values: Mapping[str, Any] | None,
    taken: Mapping[str, Collection[Any]],
    reserved: Collection[str],
) -> dict[str, nn.Parameter]:
    """Check names and values of ``wrap(parameters=...)`` and make a parameter of each value.

    Args:
        fn: the wrapped function.
        values: initial values by name.
        taken: what other options name, by the option.
        reserved: names of the module's own attributes.

    Raises:
        TypeError: for what is no dict, or a value that is no floating number, array or tensor.
        ValueError: for a name that ``fn`` does not take, that is in ``reserved``, or that another option has.

    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(
            "parameters must be a dict of names and initial values, such as {'threshold': 0.3}, got "
            f"{type(values).__name__}"
        )
    accepted = _keywords(fn)
    for name in values:
        _check_name(name, accepted, reserved)
        for option, keys in taken.items():
            if name in keys:
                raise ValueError(
                    f"{option} names {name!r}, which parameters has already: parameters have rows and are "
                    f"differentiated in addition to the arguments. Leave it out of {option}; to freeze it, type "
                    f"module.{name}.requires_grad_(False)"
                )
    return {name: _make(name, value) for name, value in values.items()}


def refuse_in_call(arguments: list[Argument], parameters: Mapping[str, Tensor]) -> None:
    """Require that no argument of the call takes the place of a parameter."""
    for argument in arguments:
        if argument.name in parameters:
            name = argument.name
            raise ValueError(
                f"{argument} is a parameter of this module, which fills it in, but the call passes it too; leave it "
                f"out of the call. To set it: with torch.no_grad(): module.{name}.copy_(value). To pass it in every "
                f"call: leave it out of wrap(parameters=...)"
            )


def parameter_arguments(
    parameters: Mapping[str, Tensor], num_rows: int | None, like: Tensor | None, companion_role: str
) -> list[Argument]:
    """Return parameters as keyword arguments with rows, (B, ...) each; autograd sums what the rows receive.

    Args:
        parameters: by name; one that requires no gradient is handed to the function, but not to the estimator.
        num_rows: B; None for a function of one point, which is handed the parameter itself.
        like: the input whose dtype they take: steps that suit one would vanish in a narrower one.
        companion_role: the role of a parameter that requires no gradient.

    """
    arguments = []
    for name, parameter in parameters.items():
        value = lift(parameter)
        if like is not None:
            value = value.to(like.dtype)
        # cloned: the function may change a point in place, and a frozen one is not copied again
        value = value.clone() if num_rows is None else value.expand(num_rows, *value.shape)
        role = "input" if parameter.requires_grad else companion_role
        arguments.append(Argument(None, name, [Leaf(value, role)], lambda leaves: leaves[0], True))
    return arguments


def _keywords(fn: Callable[..., Any]) -> list[str] | None:
    """Return the keywords that ``fn`` takes; None where it takes any, or Python does not know."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _check_name(name: Any, accepted: list[str] | None, reserved: Collection[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"parameters must be named as keyword arguments of the function are, got {name!r}")
    if name in reserved or name.startswith("_"):
        raise ValueError(
            f"parameters may not hold {name!r}, which the module has or may have as an attribute of its own; give it "
            f"another name: wrap(lambda x, *, my_{name}: fn(x, {name}=my_{name}), ...)"
        )
    if accepted is not None and name not in accepted:
        raise ValueError(
            f"parameters holds {name!r}, but the function takes no such keyword; it takes "
            f"{', '.join(accepted) or 'none'}"
        )


def _make(name: str, value: Any) -> nn.Parameter:
    if isinstance(value, nn.Parameter):
        tensor: Tensor = value
    elif isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"parameters[{name!r}] is a tensor that requires a gradient, which its copy here would not reach; pass "
            "nn.Parameter(value) to share it with this module, value.detach() to start from a copy, or a computed "
            "tensor as an argument of every call"
        )
    else:
        tensor = _as_tensor(name, value)
    if not tensor.is_floating_point():
        hint = (
            "" if tensor.is_complex() else "; type 3.0 for 3, or pass a constant as an argument of the call"
        )
        raise TypeError(
            f"parameters[{name!r}] is to be trained, so it must be floating, got {tensor.dtype}{hint}"
        )
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"parameters[{name!r}] must be a number, array or tensor, got {type(value).__name__}"
        ) from error
