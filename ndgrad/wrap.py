"""``ndgrad.wrap``: a black-box function as a ``torch.nn.Module`` that trains end to end."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypedDict, Unpack, overload

import torch
from torch._compile import _disable_dynamo

from ndgrad.arguments import Key, parameter_names
from ndgrad.autocast import without_autocast
from ndgrad.autograd import attach
from ndgrad.binding import ArgNums, BindingRules, InDims
from ndgrad.call import Call
from ndgrad.estimator import Estimator, EvaluateIn, as_tuple, unable_to_skip
from ndgrad.estimators import ESTIMATORS, WRAPPERS
from ndgrad.evaluator import BoundFunction, Evaluator
from ndgrad.execution import Execution, OnError
from ndgrad.execution.progress import Report
from ndgrad.interface import resolve_interface
from ndgrad.parameters import make_parameters
from ndgrad.validation import positive_int

_owned: weakref.WeakSet[Estimator] = weakref.WeakSet()


class BlackBox(torch.nn.Module):
    """A function without derivative as a module, made by `wrap`, which documents shapes and options.

    ``module(*args, **kwargs)`` returns ``fn(*args, **kwargs)`` with the same structure; with ``batched`` every
    differentiated input is (B, ...) and every output (B, ...), else a single row of each. In eval mode and under
    ``torch.no_grad`` it costs one evaluation per row.

    Its ``estimator`` is where the gradient comes from; three properties count evaluations, failures and cached rows.

    Raises:
        NdgradError: of a kind that says what went wrong (`FunctionError`, `OutputError`, `NonFiniteError`,
            `TooManyFailuresError`, `BudgetExceededError`, ...), from the call or, for a probe, from the backward pass.

    Example:
        >>> import torch, ndgrad
        >>> box = ndgrad.wrap(torch.floor, estimator=ndgrad.FiniteDifference(eps=1.0))
        >>> x = torch.tensor([[0.5, 2.5]], requires_grad=True)
        >>> box(x).sum().backward()
        >>> x.grad, box.num_evaluations
        (tensor([[1., 1.]]), 5)
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        estimator: Estimator,
        rules: BindingRules,
        evaluator: Evaluator,
        evaluate_in: EvaluateIn,
        parameters: Mapping[str, torch.nn.Parameter],
    ) -> None:
        super().__init__()
        if isinstance(fn, torch.nn.Module):
            self.fn = fn  # registered, so that .to() and state_dict() reach it
        self.estimator = estimator
        self._rules = rules
        self._evaluator = evaluator
        self._evaluate_in = evaluate_in
        self._parameter_names = tuple(parameters)
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return ``fn(*args, **kwargs)``, attached to the graph of the differentiated inputs and the parameters."""
        if torch.compiler.is_compiling():
            return _black_box_runs_outside_of_graphs(self, args, kwargs)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # by attribute, which torch.nn.utils.parametrize and torch.func.functional_call replace
        call = self._bind(args, kwargs)
        estimator = self.estimator  # once: a module's attributes are slow
        f = BoundFunction(self._evaluator, call, call.inputs, estimator)
        with without_autocast(call.device):
            if call.inputs:
                attached = estimator(f, *call.inputs, evaluate_in=self._evaluate_in)
            else:
                attached = attach(f, (), lambda *_: lambda _: ())
            outputs = as_tuple(attached)
        single = not self._rules.batched and not self._rules.vectorize
        return f.rebuild(tuple(y.squeeze(0) for y in outputs) if single else outputs)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        parameters = {name: getattr(self, name) for name in self._parameter_names}
        return self._rules.bind(args, kwargs, self.estimator.wants_constant_inputs, parameters)

    @property
    def num_evaluations(self) -> int:
        """How many rows have been handed to the function so far, for values and probes, repetitions included."""
        return self._evaluator.counts.evaluations

    @property
    def num_failures(self) -> int:
        """How many evaluations have failed, by an exception, NaN or infinity, a timeout, or the end of their worker.

        A row that was tried again counts each time. Where one error ends a call of many rows, it counts as one.
        """
        return self._evaluator.counts.failures

    @property
    def num_cached(self) -> int:
        """How many rows were read from the cache instead of being evaluated."""
        return self._evaluator.counts.cached

    def close(self) -> None:
        """End the worker processes of ``executor=<number>``; the next call would begin new ones."""
        self._evaluator.means.pool.close()

    def extra_repr(self) -> str:
        """Describe the function and how it is called."""
        evaluator = self._evaluator
        name = getattr(evaluator.fn, "__qualname__", None) or type(evaluator.fn).__qualname__
        parts = [name, f"interface={evaluator.interface!r}", f"batched={self._rules.batched}"]
        parts += ["vectorize=True"] * self._rules.vectorize
        parts += [f"parameters={self._parameter_names}"] * bool(self._parameter_names)
        parts += [f"chunk_size={evaluator.chunk_size}"] * (evaluator.chunk_size is not None)
        parts += self._evaluator.execution.shown()
        parts += [f"evaluate_in={self._evaluate_in!r}"] * (self._evaluate_in != "backward")
        return ", ".join(parts)


# like torch.compiler.disable, but that imports the compiler, for seconds, where it decorates
@_disable_dynamo
def _black_box_runs_outside_of_graphs(box: BlackBox, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return box._call(args, kwargs)


_RESERVED = {*dir(BlackBox), "estimator", "fn", "training"}


class Options(TypedDict, total=False):
    """The keywords of `wrap`."""

    estimator: str | Estimator
    parameters: Mapping[str, Any] | None
    argnums: ArgNums
    in_dims: InDims
    batched: bool
    vectorize: bool
    interface: str
    chunk_size: int | None
    evaluate_in: EvaluateIn
    executor: int | Executor | None
    on_error: OnError
    retries: int
    timeout: float | None
    min_success: float
    cache: str | os.PathLike[str] | None
    cache_key: str | None
    budget: int | None
    progress: bool | Report | None


@overload
def wrap(fn: Callable[..., Any], **options: Unpack[Options]) -> BlackBox: ...
@overload
def wrap(fn: None = None, **options: Unpack[Options]) -> Callable[[Callable[..., Any]], BlackBox]: ...


def wrap(
    fn: Callable[..., Any] | None = None,
    *,
    estimator: str | Estimator = "evolution_strategy",
    parameters: Mapping[str, Any] | None = None,
    argnums: ArgNums = None,
    in_dims: InDims = None,
    batched: bool = True,
    vectorize: bool = False,
    interface: str = "auto",
    chunk_size: int | None = None,
    evaluate_in: EvaluateIn = "backward",
    executor: int | Executor | None = None,
    on_error: OnError = "raise",
    retries: int = 2,
    timeout: float | None = None,
    min_success: float = 0.5,
    cache: str | os.PathLike[str] | None = None,
    cache_key: str | None = None,
    budget: int | None = None,
    progress: bool | Report | None = None,
) -> Any:
    """Make any function a ``torch.nn.Module`` that trains end to end.

    The value of the module is ``y = fn(x)``. Its backward pass turns a cotangent ``v = dL/dy`` into an estimate of
    ``vᵀ dfn/dx``, made by ``estimator`` from evaluations of ``fn`` alone. (Some estimators change the value, as their
    documentation says: ``DiffBypass(forward="bypass")`` while training, and those whose value is a mean over noise:
    ``ScoreFunction`` with a given family, ``PerturbedOptimizer``, ``ImplicitMLE``.)

    Args:
        fn: the function. Its arguments and results may be tensors, arrays, numbers, or dicts, tuples, lists and
            dataclasses of them; other arguments (strings, objects) are handed through. Integer results become the
            input's floating dtype. It never sees a tensor that requires a gradient. It may change what has rows, which
            is its own copy, but not what all rows share (``in_dims`` None), which is not copied. Half-precision
            tensors reach it as float32. A ``Module`` is registered as a submodule.
        estimator: an `Estimator`, or the name of one in ``ndgrad.ESTIMATORS`` (``"evolution_strategy"``,
            ``"diff_bypass"``), built with its defaults; those with arguments that have none need an instance.
        parameters: names and initial values of keywords of ``fn`` that are trained, too: a threshold, a weight, a
            step. They become ``Parameter``s of the module (``module.threshold``), and ``fn`` is handed one copy for
            each row, ``(R, *shape)``, in the dtype of the first input; a single point without rows, ``(*shape)``. An
            estimator treats the copies as inputs behind those among the arguments, in the order given here, and
            autograd sums what they receive. Estimators that have one sigma for all inputs want all in similar units.
            After ``module.threshold.requires_grad_(False)`` nothing is evaluated for it. What torch can differentiate
            (a factor of the result) does not belong here but outside of ``fn``, where its gradient is exact.
        argnums: positions or names of the arguments to differentiate. By default every floating tensor that requires
            a gradient. Where none does, as in evaluation, the rows are those of what did in the last call that had
            any, else of the first floating argument.
        in_dims: which arguments have rows, as in ``torch.vmap``: 0 (rows along the leading dimension) or None
            (shared by all rows), for each positional argument, or a dict from position or name. Differentiated inputs
            have rows; others are shared unless declared here, because a target must be repeated with the probes
            and a lookup table must not.
        batched: whether ``fn`` maps rows independently, (R, ...) to (R, ...), for any R. With False it takes one point
            without a batch dimension.
        vectorize: with ``batched=False``, whether the module's own input has rows, each handed to ``fn`` by itself.
        interface: what ``fn`` is handed: ``"torch"``, ``"numpy"``, ``"python"`` (numbers and lists), or ``"auto"``:
            NumPy if the code of ``fn`` refers to NumPy, SciPy, NetworkX, pandas, scikit-learn or numba and not to
            torch, else torch.
        chunk_size: the most rows handed to ``fn`` in one call; None for no limit, or, with an executor, for as many as
            make 64 calls. The result does not depend on it.
        evaluate_in: when ``fn`` is probed. ``"backward"`` spends nothing on gradients that are never asked for;
            ``"forward"`` probes right after the value, once for any number of backward passes; estimators that evaluate
            where the cotangent leads (``BlackboxInterpolation``, ``ImplicitMLE``) refuse it.
        executor: where ``fn`` is called: None (here), a number of worker processes (through loky, which carries
            lambdas and closures), or a ``concurrent.futures.Executor``: threads, spawned processes,
            ``distributed.Client.get_executor(pure=False)``, ``mpi4py.futures.MPIPoolExecutor``. The result depends
            neither on it nor on how many workers there are. A pool that forks is refused. Other processes are
            sent arrays, and ``fn`` gets its tensors on the CPU there. A function with a keyword ``seed`` (without a
            value of its own) is handed a seed for each row, (R,) integers, or one for a point, drawn here from
            torch's global generator, with every executor and without.
        on_error: what a failed evaluation means (an exception, NaN or infinity, more than ``timeout``, the end of its
            worker): ``"raise"`` an error; ``"retry"``, up to ``retries`` times, then an error; ``"skip"`` that the
            estimate is made of the probes that remain, which leaves it unbiased if failures do not depend on the
            draw (a `DependentFailureWarning` says if they do). The value itself cannot be skipped, and is tried
            again. Where one call of many rows fails, all but ``"raise"`` halve it until the row is found. A worker's
            end is its rows' failure only if it happens twice.
        retries: how often a row is tried again, with the same seed.
        timeout: seconds that an evaluation may take; a call of r rows has r times as long. Worker processes of ours
            are ended then, and replaced; on an executor of yours the evaluation is given up but goes on.
        min_success: with ``"skip"``, the least fraction of each input's evaluations in one call that must succeed.
        cache: where evaluations are kept, and looked up by everything that ``fn`` is handed for a row: None,
            ``"memory"``, or a folder, which any number of processes may share. Nothing in it is run when it is
            read, and a file that is torn or foreign is left out with a warning. Not for a function that draws
            random numbers of its own.
        cache_key: names the function in the cache. By default it is told by its name, byte code, defaults, attributes,
            closure, and what it names of its own module (values, functions, classes); an object or network by its
            state, and the methods and attributes of its user-written classes. What it reads or calls elsewhere (a
            file, another module, an installed package) is not seen, and calls for a key that you change with it; so
            does what cannot be told apart, such as a lock.
        budget: the most evaluations over the life of the module, values, probes and repetitions; rows from the cache
            are free. An evaluation that would spend more is not begun.
        progress: True for a bar in the terminal (with ``rich``), or a function that is handed a named tuple (done,
            failed, total, rate, seconds_left) after every call of ``fn``. With ``chunk_size`` there is more to see.

    Returns:
        A `BlackBox` module; without ``fn``, a decorator that makes one.

    Raises:
        TypeError: for an estimator that is neither an `Estimator` nor a name, a parameter that is not floating, or a
            result that is no real number.
        ValueError: for an unknown name, contradictory options, rows that do not agree, or a parameter whose name
            ``fn`` does not take, the module has already, or a call passes.
        FunctionError: (a RuntimeError) when ``fn`` raises; the original exception is its cause.
        OutputError: (a ValueError) when results have the wrong number of rows, or are not finite.
        ExecutorError: (a RuntimeError) when the executor cannot carry the function, or takes no more work.
        BudgetExceededError: (a RuntimeError) when evaluations are asked for that the budget does not have.
        TooManyFailuresError: (a RuntimeError) when fewer evaluations than ``min_success`` of an input succeeded.
        SecondDerivativeError: (a RuntimeError) when the estimate is differentiated again.
        UnsupportedTransformError: (a NotImplementedError) where ``torch.func`` asks for what an estimator has not.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> staircase = ndgrad.wrap(torch.round, estimator=ndgrad.EvolutionStrategy(num_samples=4000, sigma=0.5))
        >>> x = torch.tensor([[0.2, 1.7]], requires_grad=True)
        >>> y = staircase(x)
        >>> y.detach()
        tensor([[0., 2.]])
        >>> y.sum().backward()  # autograd of torch.round gives 0; the smoothed staircase climbs with slope 1
        >>> x.grad.round(decimals=0)
        tensor([[1., 1.]])
        >>> staircase.num_evaluations
        8001

        A threshold that is trained with whatever comes before ``x``; each row has its copy of it:

        >>> def excess(x, threshold):  # (R, n), (R,) -> (R,)
        ...     return ((x - threshold[:, None]).clamp(min=0) ** 2).sum(1)
        >>> box = ndgrad.wrap(excess, estimator="finite_difference", parameters={"threshold": 0.5})
        >>> optimizer = torch.optim.SGD(box.parameters(), lr=0.1)
        >>> box(torch.tensor([[0.1, 1.0, 2.5], [0.7, 0.2, 0.3]])).sum().backward()
        >>> box.threshold.grad.round(decimals=3)  # -2 (0.5 + 2.0 + 0.2)
        tensor(-5.4000)
        >>> optimizer.step()
        >>> box.threshold.detach().round(decimals=3)
        tensor(1.0400)

    """
    if fn is None:
        return functools.partial(
            wrap, estimator=estimator, parameters=parameters, argnums=argnums, in_dims=in_dims, batched=batched,
            vectorize=vectorize, interface=interface, chunk_size=chunk_size, evaluate_in=evaluate_in,
            executor=executor, on_error=on_error, retries=retries, timeout=timeout, min_success=min_success,
            cache=cache, cache_key=cache_key, budget=budget, progress=progress,
        )  # fmt: skip
    if not callable(fn):
        raise TypeError(f"ndgrad.wrap needs a callable as its first argument, got {type(fn).__name__}")
    if evaluate_in not in ("backward", "forward"):
        raise ValueError(f"evaluate_in must be 'backward' or 'forward', got {evaluate_in!r}")
    _check_calling(batched, vectorize, in_dims, chunk_size)
    rules = BindingRules(*parameter_names(fn), _as_keys(argnums), in_dims, batched, vectorize)
    taken = {"argnums": rules.argnums or (), "in_dims": in_dims if isinstance(in_dims, dict) else ()}
    execution = Execution(
        executor, on_error, retries, timeout, min_success, cache, cache_key, budget, progress or None
    )
    evaluator = Evaluator(fn, resolve_interface(fn, interface), batched, chunk_size, execution)
    trained = make_parameters(fn, parameters, taken, _RESERVED)
    chosen = _as_estimator(estimator, on_error)
    return BlackBox(fn, chosen, rules, evaluator, evaluate_in, trained)


def _check_calling(batched: bool, vectorize: bool, in_dims: InDims, chunk_size: int | None) -> None:
    if batched and vectorize:
        raise ValueError(
            "vectorize=True lifts a function of one point over rows, but batched=True says that it takes rows already; "
            "type batched=False, vectorize=True"
        )
    if not batched and not vectorize and in_dims is not None:
        raise ValueError(
            "in_dims speaks of rows, but batched=False has none; type vectorize=True to have rows"
        )
    dims = (
        in_dims.values()
        if isinstance(in_dims, dict)
        else [in_dims]
        if isinstance(in_dims, int)
        else in_dims or ()
    )
    if any(dim not in (0, None) for dim in dims):
        raise ValueError(
            f"in_dims may hold 0 (rows along the leading dimension) and None (shared), got {in_dims!r}"
        )
    if chunk_size is not None and not batched:
        raise ValueError(
            f"chunk_size needs batched=True, since otherwise every call is one row; got chunk_size={chunk_size}"
        )
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)


def _as_keys(argnums: ArgNums) -> tuple[Key, ...] | None:
    if argnums is None:
        return None
    return tuple(argnums) if isinstance(argnums, Sequence) and not isinstance(argnums, str) else (argnums,)


def _as_estimator(estimator: Any, on_error: str) -> Estimator:
    if isinstance(estimator, str):
        if estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator must be one of {', '.join(map(repr, ESTIMATORS))}, or an instance, got {estimator!r}"
            )
        estimator = _by_name(ESTIMATORS[estimator])
    if not isinstance(estimator, Estimator):
        hint = ": create it, with parentheses" if isinstance(estimator, type) else ""
        raise TypeError(f"estimator must be an ndgrad.Estimator or a name, got {estimator!r}{hint}")
    if on_error == "skip" and (unable := unable_to_skip(estimator)):
        able = [cls.__name__ for cls in (*ESTIMATORS.values(), *WRAPPERS) if cls.skips_failures]
        raise ValueError(
            f"on_error='skip' leaves out failed probes, but {type(unable[-1]).__name__} needs every one; type "
            f"on_error='retry', or take one that can do without: {', '.join(able) or 'none yet'}"
        )
    parts = [part for part in estimator.modules() if isinstance(part, Estimator)]  # it and what it holds
    if any(part in _owned for part in parts):
        raise ValueError(
            f"this {type(estimator).__name__} already belongs to another wrapped function, whose random numbers and "
            "fitted network it would share; give each its own: copy.deepcopy(estimator)"
        )
    _owned.update(parts)
    return estimator


def _by_name(cls: type[Estimator]) -> Estimator:
    try:
        return cls()
    except TypeError as error:
        raise TypeError(
            f"a name builds an estimator with its defaults, but {error}; type estimator=ndgrad.{cls.__name__}(...)"
        ) from error
