"""
Wrap a NumPy function
=====================

A thermostat is a rule: it heats if it is colder than a threshold. NumPy can simulate it, torch
cannot differentiate it. We wrap it and train what comes before it.
"""

# %%
# The function
# ------------
# It takes rows: R rooms, each with two settings, the threshold and the strength of the heating. It
# returns, for each room, the mean temperature of a day and the energy that was spent. The rule in
# the middle has derivative 0 almost everywhere.

import matplotlib.pyplot as plt
import numpy as np
import torch

import ndgrad


def day(settings):  # (R, 2) -> (R, 2)
    threshold, strength = settings[:, 0], settings[:, 1]
    temperature = np.full(len(settings), 15.0)
    mean = np.zeros(len(settings))
    energy = np.zeros(len(settings))
    for hour in np.arange(0, 24, 0.25):
        outside = 8 + 6 * np.sin(2 * np.pi * (hour - 9) / 24)
        heating = np.where(temperature < threshold, strength, 0.0)  # the rule
        temperature = temperature + 0.25 * (heating - 0.15 * (temperature - outside))
        mean += temperature / 96
        energy += 0.25 * heating
    return np.stack([mean, energy], axis=1)


print(day(np.array([[20.0, 3.0], [18.0, 2.0]])))

# %%
# The wrapped function
# --------------------
# ``ndgrad.wrap`` makes a module of it. Its value is that of the function, to the last digit;
# ``interface="auto"`` saw that the code speaks NumPy, and hands it arrays.

box = ndgrad.wrap(day, estimator=ndgrad.EvolutionStrategy(num_samples=8, sigma=0.3))
settings = torch.tensor([[20.0, 3.0], [18.0, 2.0]], dtype=torch.float64, requires_grad=True)
outputs = box(settings)
print(outputs)

# %%
# The output is attached to the graph, and backward works. Every input row was evaluated once for
# the value, and 8 pairs were drawn around it.

outputs[:, 0].sum().backward()
print(settings.grad)
print(box.num_evaluations, "rows evaluated: 2 values and 2 * 8 * 2 probes")

# %%
# Without wrapping there is nothing to follow: the rule compares, and a comparison has no
# derivative. The temperature does depend on the threshold, in steps as small as one quarter of an
# hour's heating, and the smoothed gradient climbs them.

thresholds = torch.linspace(17, 21, 400, dtype=torch.float64)
rows = torch.stack([thresholds, torch.full_like(thresholds, 3.0)], dim=1).requires_grad_()
values = box(rows)
values[:, 0].sum().backward()
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(thresholds, values[:, 0].detach())
axes[0].set(xlabel="threshold", ylabel="mean temperature")
axes[1].plot(thresholds, rows.grad[:, 0], lw=0.8)
axes[1].set(xlabel="threshold", ylabel="its estimated slope")
figure.tight_layout()

# %%
# Train through it
# ----------------
# A small network chooses the settings from what the people of a house want: a temperature. The loss
# is about what the simulation says, so that the gradient has to pass it.

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
layer = ndgrad.wrap(day, estimator=ndgrad.EvolutionStrategy(num_samples=4, sigma=0.3))
optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
losses = []
for _ in range(200):
    wanted = 15 + 4 * torch.rand(16, 1, dtype=torch.float64)
    choice = network((wanted - 17) / 2) + torch.tensor([17.0, 3.0], dtype=torch.float64)
    mean, energy = layer(choice).unbind(1)
    loss = (mean - wanted[:, 0]).square().mean() + 0.001 * energy.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss: {losses[0]:.3f} at first, {np.mean(losses[-20:]):.3f} over the last 20 steps")

# %%
figure, axis = plt.subplots(figsize=(6, 3))
axis.semilogy(losses)
axis.set(xlabel="step", ylabel="loss")
figure.tight_layout()

# %%
# What next
# ---------
# Is a width of 0.3 degrees right, are 4 pairs enough? :func:`ndgrad.diagnose` measures it, see
# :doc:`08_when_the_bypass_is_wrong`. Which estimator to take instead is the subject of
# :doc:`/start/choosing`; what each of them sees, that of the next tutorial, :doc:`02_a_step_function`.
