"""
A shortest-path layer
=====================

A network predicts the cost of each step on a map, networkx finds the cheapest path, and the network
is trained to make it the *right* path. The path is piecewise constant in the costs: its derivative
is 0.
"""

# %%
# The solver
# ----------
# A map of 5 x 5 cells. The function takes the costs of the cells of R maps, (R, 25), and returns
# which cells the cheapest path from one corner to the other visits, (R, 25) zeros and ones.

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

import ndgrad

SIZE = 5
GRID = nx.grid_2d_graph(SIZE, SIZE).to_directed()
CORNERS = (0, 0), (SIZE - 1, SIZE - 1)


def cheapest_path(costs):  # (R, 25) -> (R, 25)
    visited = np.zeros_like(costs)
    for row, cost in enumerate(costs.reshape(-1, SIZE, SIZE)):
        floor = np.maximum(cost, 0.01)  # Dijkstra's algorithm needs costs above 0
        path = nx.dijkstra_path(GRID, *CORNERS, weight=lambda a, b, edge, floor=floor: floor[b])
        for i, j in path:
            visited[row, i * SIZE + j] = 1
    return visited


# %%
# The data
# --------
# What the network sees of a cell is a vector of 4 numbers; the true cost is an unknown function of
# it. We are shown maps with their best path, never a cost.

torch.manual_seed(0)
secret = torch.tensor([1.0, -0.5, 0.3, 0.0])


def maps(count):
    features = torch.randn(count, SIZE * SIZE, 4)
    costs = torch.nn.functional.softplus(2 * features @ secret) + 0.1
    return features, torch.from_numpy(cheapest_path(costs.numpy()))


features, paths = maps(32)
unseen_features, unseen_paths = maps(60)

# %%
# Three ways through the solver
# -----------------------------
# A **perturbed optimiser** has a soft solution as its value, the mean of paths at noisy costs.
# **Black-box interpolation** has the exact path as its value and solves once more in backward. The
# **Fenchel-Young loss** needs no value at all: known paths are compared with the mean path.


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1), torch.nn.Softplus()
    )


def hamming(predicted, target):  # cells in which two paths differ, per map
    return (predicted - target).abs().sum(1).mean()


perturbed = ndgrad.wrap(cheapest_path, estimator=ndgrad.PerturbedOptimizer(8, sigma=0.5, sense="min"))
interpolated = ndgrad.wrap(cheapest_path, estimator=ndgrad.BlackboxInterpolation("min", lambd=200.0))
fenchel_young = ndgrad.FenchelYoungLoss(ndgrad.wrap(cheapest_path), "min", num_samples=8, sigma=0.5)
losses = {
    "perturbed optimiser": lambda costs, target: hamming(perturbed(costs), target),
    "black-box interpolation": lambda costs, target: hamming(interpolated(costs), target),
    "Fenchel-Young loss": lambda costs, target: fenchel_young(costs, target).mean(),
}


def wrong_paths(model):
    """Share of unseen maps whose path is not the best one."""
    with torch.no_grad():
        found = torch.from_numpy(cheapest_path(model(unseen_features)[..., 0].numpy()))
    return (found != unseen_paths).any(1).float().mean().item()


curves, models = {}, {}
for name, loss in losses.items():
    model = models[name] = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    curves[name] = [wrong_paths(model)]
    for step in range(1, 41):
        rows = torch.randperm(len(features))[:8]
        optimizer.zero_grad()
        loss(model(features[rows])[..., 0], paths[rows]).backward()
        optimizer.step()
        if step % 5 == 0:
            curves[name].append(wrong_paths(model))
    print(
        f"{name:25} wrong paths on unseen maps: {curves[name][0]:.0%} at first, {curves[name][-1]:.0%} after 40 steps"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for name, curve in curves.items():
    left.plot(range(0, 41, 5), curve, "o-", label=name)
left.set(xlabel="step", ylabel="wrong paths", ylim=(0, 1))
left.legend(fontsize=8)
with torch.no_grad():
    cost = models["Fenchel-Young loss"](unseen_features[:1])[0, :, 0]
right.imshow(cost.reshape(SIZE, SIZE), cmap="Greys")
for path, style, label in (
    (unseen_paths[0], "s", "best path"),
    (torch.from_numpy(cheapest_path(cost[None].numpy()))[0], ".", "path found"),
):
    i, j = np.nonzero(path.reshape(SIZE, SIZE).numpy())
    right.plot(j, i, style, ms=16 if style == "s" else 10, mfc="none" if style == "s" else None, label=label)
right.set(xticks=[], yticks=[], title="learned costs of an unseen map")
right.legend(fontsize=8)
figure.tight_layout()

# %%
# Which to take
# -------------
# With known solutions the Fenchel-Young loss has the least noise: no derivative of the solver
# occurs in it. The other two take any loss on the path; the one with the exact value solves twice
# per step, the one with the soft value S times. The step ``lambd`` has to be large here since the
# loss is a mean over 8 maps, which makes the cotangent small: what counts is their product.
