"""
A simulator in worker processes
===============================

A simulator takes seconds, crashes now and then, and there are more processors than one. Here it
runs in worker processes, then on a Dask cluster, and a gradient is made of what comes back.
"""

# %%
# The simulator
# -------------
# Customers arrive at a counter at random and are served in order; what is wanted is the mean
# waiting time for a rate of service. It is a loop over customers in plain Python. One run in
# thirty fails, as simulators do. ``seed`` is handed to it, one for each row.

import math
import random
import time

import torch

import ndgrad


def waiting_time(rate, seed):  # numbers of one row
    draw = random.Random(seed)
    if draw.random() < 1 / 30:
        raise ArithmeticError("the solver did not converge")
    time.sleep(0.01)  # it would be a second
    wait, total = 0.0, 0.0
    for _ in range(200):
        total += wait
        service = -math.log(1 - draw.random()) / rate[0]
        wait = max(wait + service - draw.expovariate(0.7), 0.0)
    return total / 200


# %%
# Worker processes
# ----------------
# ``executor=2`` begins two worker processes with the first evaluation. ``on_error="skip"`` makes
# the gradient of the probes that came back; the value itself is tried again. A run that takes
# longer than ten seconds would be ended, its worker replaced.

estimator = ndgrad.EvolutionStrategy(num_samples=20, sigma=0.1)
box = ndgrad.wrap(
    waiting_time,
    estimator=estimator,
    batched=False,
    vectorize=True,
    interface="python",
    executor=2,
    on_error="skip",
    timeout=10,
)
rates = torch.tensor([[1.2], [1.6]], requires_grad=True)


def evaluate(box):
    torch.manual_seed(2)  # of the draws and of the seeds
    begin = time.perf_counter()
    waits = box(rates)
    (slopes,) = torch.autograd.grad(waits.sum(), rates)
    return waits.detach(), slopes, time.perf_counter() - begin


evaluate(box)  # begins the workers
waits, slopes, seconds = evaluate(box)
print("waiting times", waits, "slopes", slopes[:, 0])
print(box.num_evaluations, "runs,", box.num_failures, "of them failed")

# %%
# The same without workers gives the same numbers to the bit, because seeds are drawn here and not
# there, and takes longer.

serial = ndgrad.wrap(
    waiting_time,
    estimator=ndgrad.EvolutionStrategy(num_samples=20, sigma=0.1),
    batched=False,
    vectorize=True,
    interface="python",
    on_error="skip",
)
waits_here, slopes_here, seconds_here = evaluate(serial)
print(torch.equal(waits, waits_here), torch.equal(slopes, slopes_here))
print(f"{seconds:.2f} s with two workers, {seconds_here:.2f} s without")
box.close()

# %%
# A Dask cluster
# --------------
# A ``LocalCluster`` is a cluster on this machine; one on SLURM or in a cloud differs in the line
# that makes it. The function travels there by itself.

from distributed import Client, LocalCluster

local = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
with LocalCluster(**local) as cluster, Client(cluster) as client:
    remote = ndgrad.wrap(
        waiting_time,
        estimator=ndgrad.EvolutionStrategy(num_samples=20, sigma=0.1),
        batched=False,
        vectorize=True,
        interface="python",
        executor=client.get_executor(pure=False),
        on_error="skip",
    )
    waits_there, slopes_there, _ = evaluate(remote)
print(torch.equal(waits, waits_there), torch.equal(slopes, slopes_there))

# %%
# Progress, a budget, and a cache
# -------------------------------
# Long evaluations report on themselves: ``progress=True`` draws a bar, a function gets the
# numbers. ``budget=`` stops before more is spent than you have, and with ``cache=`` (a folder, or
# ``"memory"``) a run that was interrupted goes on where it was.

reports = []
box = ndgrad.wrap(
    waiting_time,
    estimator=ndgrad.EvolutionStrategy(num_samples=20, sigma=0.1),
    batched=False,
    vectorize=True,
    interface="python",
    on_error="skip",
    cache="memory",
    budget=100,
    progress=reports.append,
)
for _ in range(3):
    evaluate(box)
print(box.num_evaluations, "runs,", box.num_cached, "from the cache")
print(reports[-1].done, "of", reports[-1].total, "done,", reports[-1].failed, "failed")

# %%
# What next
# ---------
# :doc:`/concepts/workers` has the other executors, Ray and SLURM; :doc:`/concepts/failures` says when
# leaving out failed probes is unbiased.
