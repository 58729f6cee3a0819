"""Pictures of a loss landscape: cuts, surfaces, and the PCA plane of a trajectory."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from .. import _checks


class Plane(NamedTuple):
    """A plane through `origin`, shape (dim,), along orthonormal `axes`, shape (2, dim).

    `coordinates`, shape (T, 2): the trajectory in the plane. `explained`, shape (2,): the share of the
    trajectory's squared distance from the origin that lies along each axis.
    """

    origin: np.ndarray
    axes: np.ndarray
    coordinates: np.ndarray
    explained: np.ndarray


def pca_plane(trajectory):
    """The first two principal directions of θ_i - θ_t, with the last point θ_t as the origin.

    The rows are not centred: section 4.1 of *Loss Spike in Training Neural Networks* applies PCA to
    M = [θ_1 - θ_t, …, θ_t - θ_t].

    Parameters
    ----------
    trajectory : array, shape (T, dim), T ≥ 3, dim ≥ 2

    Returns
    -------
    Plane
    """
    trajectory = _checks.array("trajectory", trajectory, 2)
    if trajectory.shape[0] < 3 or trajectory.shape[1] < 2:
        raise ValueError(f"trajectory needs 3 points in 2 dimensions at least, not shape {trajectory.shape}")
    moved = trajectory - trajectory[-1]
    if not moved.any():
        raise ValueError("trajectory never moves; there is no plane to draw")
    _, sizes, axes = np.linalg.svd(moved, full_matrices=False)
    return Plane(trajectory[-1], axes[:2], moved @ axes[:2].T, sizes[:2] ** 2 / (sizes**2).sum())


class Floor(NamedTuple):
    """The floor of a valley: `points`, shape (k, dim), and the `loss` there, shape (k,)."""

    points: np.ndarray
    loss: np.ndarray


def valley_floor(loss, plane, k=9):
    """The valley's floor in a trajectory's plane: at k places along the valley, the lowest point across it.

    Across the valley is the direction in the plane in which the steps are largest (an unstable iterate hops from
    wall to wall), along it the direction at right angles. The places are evenly spread over what was visited.

    Parameters
    ----------
    loss : callable
        L of a vector of shape (dim,).
    plane : Plane
    k : int
        At least 3.

    Returns
    -------
    Floor
    """
    k = _checks.count("k", k, 3)
    hops = np.diff(plane.coordinates, axis=0)
    across, along = np.linalg.svd(hops, full_matrices=False)[2]
    reach = 1.5 * np.abs(plane.coordinates @ across).max() + 1e-12
    places = plane.coordinates @ along
    points, losses = [], []
    for place in np.linspace(places.min(), places.max(), k):

        def at(offset, place=place):
            return plane.origin + (place * along + offset * across) @ plane.axes

        lowest = minimize_scalar(lambda v: float(loss(at(v))), bounds=(-reach, reach), options={"xatol": 1e-6 * reach})
        points.append(at(lowest.x))
        losses.append(lowest.fun)
    return Floor(np.array(points), np.array(losses))


def cut(loss, origin, direction, distances):
    """L(origin + δ·direction) for each δ in `distances`, an array of their shape.

    `loss` is any function of a vector of shape (dim,), such as `problem.loss`.
    """
    origin, direction = _checks.array("origin", origin, 1), _checks.array("direction", direction, 1)
    if origin.shape != direction.shape:
        raise ValueError(f"direction must have origin's shape {origin.shape}, not {direction.shape}")
    distances = _checks.array("distances", distances, 1)
    return np.array([float(loss(origin + d * direction)) for d in distances])


def surface(loss, origin, axes, alphas, betas):
    """L(origin + α·axes[0] + β·axes[1]), shape (len(betas), len(alphas)), as `contour(alphas, betas, …)` takes it."""
    origin, axes = _checks.array("origin", origin, 1), _checks.array("axes", axes, 2)
    if axes.shape != (2, len(origin)):
        raise ValueError(f"axes must have shape (2, {len(origin)}), not {axes.shape}")
    alphas, betas = _checks.array("alphas", alphas, 1), _checks.array("betas", betas, 1)
    return np.array([cut(loss, origin + b * axes[1], axes[0], alphas) for b in betas])
