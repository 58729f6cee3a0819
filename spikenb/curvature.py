"""Curvature of a loss: Hessian eigenpairs, sharpness along a run, and the critical learning rate.

Small problems get their whole spectrum from the dense matrix. Large ones get the top of it from Hessian-vector
products alone: `lanczos` grows a Krylov space by full reorthogonalisation, and `Tracker` starts that space from
what it knew one step of training before.
"""

from typing import NamedTuple

import numpy as np
import torch

from . import _checks, _two_layer

LARGEST_DENSE = 2000
LARGEST_CLOSED = 150  # up to here all eigenvalues of a closed-form Hessian cost less than one by a Krylov space
CLOSE = 0.05  # eigenvalues nearer than this share of λ1: their vectors are not told apart while tracking
SMALL = 64  # up to here the dense matrix costs less than a Krylov space


class Spectrum(NamedTuple):
    """Eigenvalues in descending order, shape (dim,), and their unit eigenvectors as columns, (dim, dim); float64."""

    values: np.ndarray
    vectors: np.ndarray


class Pairs(NamedTuple):
    """The top k eigenpairs of a symmetric operator, with what is known of their errors.

    values : ndarray, shape (k,): λ1 ≥ λ2 ≥ …, float64.
    vectors : tensor, shape (dim, k): unit eigenvectors as columns, orthogonal, of the operator's dtype.
    residuals : ndarray, shape (k,): r = ‖Hv - ρv‖ with ρ = vᵀHv. Some eigenvalue lies within r of ρ.
    gaps : ndarray, shape (k,): the distance from λ to the nearest other eigenvalue that was seen.
    angles : ndarray, shape (k,): the angle of each vector to an eigenvector, estimated, in radians.
    products : int: the number of Hessian-vector products spent.

    The residual bounds the error of the value, not of the vector: the vector's is about residual / gap. Where the gap
    is no larger than the residual it is some direction of a nearly degenerate eigenspace, however small the residual.
    `angles` says so (π/2 where nothing is known), and `trusted` marks the vectors that are better than 0.05.
    """

    values: np.ndarray
    vectors: torch.Tensor
    residuals: np.ndarray
    gaps: np.ndarray
    angles: np.ndarray
    products: int

    @property
    def trusted(self):
        """Whether each vector lies within 0.05 radians of an eigenvector, by `angles`. Shape (k,), bool."""
        return self.angles <= 0.05


def lanczos(operator, start, k=1, tol=1e-3, angle=None, most=300):
    """The k largest eigenvalues of a symmetric operator and their eigenvectors, by a Krylov space with full
    reorthogonalisation.

    Parameters
    ----------
    operator : callable
        v ↦ Hv on tensors of shape (dim,).
    start : tensor, shape (dim,) or (dim, m)
        One vector: Lanczos's method, which finds one copy of an eigenvalue that is repeated exactly.
        Several columns: a space to start from, which finds as many copies. Each costs a product, and the
        space then grows by the residual of the first pair that has not converged.
    k : int
    tol : float
        Stop when every λ_i is known to tol·abs(λ1).
    angle : float, optional
        Stop only when the vectors are known to this angle too, where the gap is more than abs(λ1)/20.
    most : int
        The largest number of products; what is reached then is returned, with its residuals.

    Returns
    -------
    Pairs

    With ρ the Rayleigh quotient and r the residual of a vector, the eigenvalue is λ = ρ + rᵀ(λ - H⊥)⁻¹r, and what
    lies outside the space has its eigenvalues in [-abs(λ1), λ_k+1]; `values` are the middle of what that allows (Kato
    and Temple's bounds), and half its width is the error that `tol` bounds.

    Raises ValueError for a k larger than dim or a start that is zero or not finite, and FloatingPointError
    where the operator returns NaN or infinity. The equivalent elsewhere: `scipy.sparse.linalg.eigsh(which="LA")`.
    """
    start = start[:, None] if start.ndim == 1 else start
    if _checks.count("k", k) > len(start):
        raise ValueError(f"k must be at most the dimension, {len(start)}, not {k}")
    lengths = start.norm(dim=0)
    if not (torch.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("start must not have a column of zeros, or NaN or infinite entries")
    return _krylov(operator, start.T.contiguous(), k, tol, angle, most, start.shape[1] <= k).pairs


class _Space:
    """An orthonormal basis, its images under the operator, and the operator's matrix in it; vectors are rows.

    `room`, the basis and images of a space no longer needed, is written over: fresh memory costs more than the sums.
    """

    def __init__(self, operator, start, room=None):
        self.operator, self.dim, self.size = operator, len(start[0]), 0
        like = start[0]
        if room is None or (room[0].shape[1], room[0].dtype, room[0].device) != (self.dim, like.dtype, like.device):
            room = [like.new_empty(len(start) + 20, self.dim) for _ in range(2)]
        self.basis, self.images = room
        self.small = torch.zeros(0, 0, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(0)
        for vector in start:
            self.add(vector)

    def add(self, vector):
        """Grow by what `vector` has outside the space; by something random where that is nothing."""
        if self.size == self.dim:
            return
        m = self.size
        if m == len(self.basis):
            self.basis, self.images = (torch.cat([rows, torch.empty_like(rows)]) for rows in (self.basis, self.images))
        while not _orthonormal(vector, self.basis[:m], self.basis[m]):  # an invariant subspace: look outside it
            vector = torch.randn(self.dim, generator=self.generator, dtype=torch.float64).to(vector)
        self.images[m] = self.operator(self.basis[m])
        self.size = m + 1
        column = (self.basis[: m + 1] @ self.images[m]).double().cpu()
        if not torch.isfinite(column).all():
            raise FloatingPointError("the Hessian-vector product has NaN or infinite entries")
        self.small = torch.nn.functional.pad(self.small, (0, 1, 0, 1))
        self.small[-1, :], self.small[:, -1] = column, column

    def ritz(self):
        """All Ritz values, descending, and as rows the coefficients of their vectors in the basis; float64."""
        values, mixes = torch.linalg.eigh(self.small)
        return values.flip(0), mixes.flip(1).T

    def vectors(self, mixes):
        return mixes.to(self.basis) @ self.basis[: self.size]

    def rests(self, values, mixes):
        """Hv - ρv of Ritz vectors."""
        images = mixes.to(self.images) @ self.images[: self.size]
        return images.addmm_((values[:, None] * mixes).to(self.basis), self.basis[: self.size], alpha=-1)


class _Found(NamedTuple):
    """Pairs; λ_k+1 and its vector one power step on (None where neither was asked for); and by how much each
    of the start's vectors was off in truth for every radian that was estimated (None where the space never grew);
    and the space's memory, to be used again."""

    pairs: Pairs
    below: float | None
    guard: torch.Tensor | None
    slack: torch.Tensor | None
    room: tuple


def _krylov(operator, start, k, tol, angle, most, from_scratch, below=None, room=None):
    """The work of `lanczos`, from a list of vectors.

    `from_scratch`: nothing is known of the start. The values must then also have stopped rising, and of a start of
    more than k vectors λ_k+1 must be known well enough to tell whether it is close. `below` is λ_k+1 where it is known
    beforehand: k dimensions may then be enough. `room`: see `_Space`.
    """
    space, first, previous, grown = _Space(operator, start, room), None, torch.full((k,), torch.nan), None
    settled, looked = torch.zeros(k, dtype=bool), k + 1 if from_scratch and len(start) > k else k
    floor = 30 * torch.finfo(start[0].dtype).eps  # rounding's share of a residual, in units of |H|
    while True:
        values, mixes = space.ritz()
        top, size = values[:k], values.abs().max()
        rests = space.rests(values[:looked], mixes[:looked])
        r, beyond = rests.norm(dim=1).double().cpu().split([len(top), len(rests) - len(top)])
        ladder = values if below is None else torch.cat([values, values.new_tensor([below]).clamp(max=values.min())])
        outside = ladder[k] if len(ladder) > k else values.new_tensor(-torch.inf)
        low, high, angles = _bounds(top, r, outside, tol * size)
        if first is None:
            first = angles, mixes[:k]
        allowed = (tol + floor) * size
        converged = torch.minimum((high - low) / 2, r) <= allowed
        if from_scratch:  # λ_k+1, and so the gap, is still rising; a pair is judged when its own residual was added
            now = torch.nn.functional.pad(top, (0, k - len(top)), value=torch.nan)
            settled = (settled | (torch.arange(k) == grown)) & ((now - previous).abs() <= allowed)
            converged &= settled[: len(top)]
            previous = now
        gaps = _gaps(ladder)[:k]
        if angle is not None:
            converged &= (angles <= angle) | (gaps <= CLOSE * size) | (r <= floor * size)
        if space.size >= min(space.dim, most):
            break
        late = torch.cat([~converged, beyond > CLOSE * size]).nonzero()
        if len(ladder) > k and len(top) == k and not len(late):
            break
        grown = int(late[0]) if len(late) else len(rests) - 1
        space.add(rests[grown])
    better = top + ((low + high) / 2).clamp(max=r)
    vectors = space.vectors(mixes[:k])
    pairs = Pairs(better.numpy(), vectors.T, r.numpy(), gaps.numpy(), angles.numpy(), space.size)
    slack = None
    if space.size > len(start) and not from_scratch:
        before = first[1].shape[1]
        cosines = (first[1] * mixes[:k, :before]).sum(1).abs().clamp(max=1)
        slack = torch.arccos(cosines) / first[0].clamp_min(1e-12)
    if below is not None or space.size <= k:
        return _Found(pairs, below, None, slack, (space.basis, space.images))
    # the shift makes the power step favour the largest eigenvalue rather than a negative one
    value, mix = values[k : k + 1], mixes[k : k + 1]
    guard = space.rests(value, mix)[0].add_(space.vectors(mix)[0], alpha=(value + size / 2).item())
    return _Found(pairs, value.item(), guard, slack, (space.basis, space.images))


def _bounds(values, r, outside, near):
    """Kato and Temple's bounds on λ - ρ for Ritz values with residuals r, and the angles of their vectors.

    What lies outside the space has its eigenvalues between -abs(λ1) and `outside`; those nearer than `near` do no harm.
    A vector leaves the space by r/(λ - outside), and leans to second order on the others in it, over a gap of which
    the values' own uncertainty is taken off.
    """
    tiny = torch.finfo(torch.float64).tiny
    high = r**2 / (values - outside).clamp_min(near + tiny)
    low = r**2 / (values + values.abs().max()).clamp_min(tiny)
    out = r / (values - outside).clamp_min(tiny)
    gaps = (values[:, None] - values[None, :]).abs() - high[:, None] - high[None, :]
    among = out[:, None] * r[None, :] / gaps.clamp_min(tiny)
    return torch.minimum(low, high), high, torch.arctan(out + among.fill_diagonal_(0).sum(1))


def _orthonormal(vector, basis, unit):
    """Write into `unit` the direction of `vector` with `basis`, rows, projected out; say whether any of it was left."""
    length = vector.norm()
    if length == 0:
        return False
    torch.div(vector, length, out=unit)
    for _ in range(3 if len(basis) else 0):
        unit.addmv_(basis.T, basis @ unit, alpha=-1)
        rest = unit.norm()
        if rest < 100 * torch.finfo(unit.dtype).eps:
            return False
        unit /= rest
        if rest > 0.99:  # nothing was left to take away
            break
    return True


def _gaps(values):
    """The distance of each of some values to the nearest other one; infinity for a single one."""
    distances = (values[:, None] - values[None, :]).abs()
    return distances.fill_diagonal_(torch.inf).min(1).values


def top_eigenpairs(problem, theta, k=1, tol=1e-4, how="reverse", step=None, seed=0):
    """The k largest eigenvalues of ∇²L(θ) and their eigenvectors, with residuals and gaps.

    Parameters
    ----------
    problem : Problem
    theta : array or tensor, shape (dim,)
    k : int, at most dim
    tol : float
        The relative error of the values; see `lanczos`. In single precision nothing is better than about 1e-5.
    how, step
        How Hessian-vector products are made: see `Problem.hessian_operator`.
    seed : int
        Of the random start.

    Returns
    -------
    Pairs

    Raises ValueError for a k larger than dim, FloatingPointError where the Hessian is not finite.
    """
    theta = problem.parameters(theta)
    if _checks.count("k", k) > problem.dim:
        raise ValueError(f"k must be at most the dimension, {problem.dim}, not {k}")
    start = _random(theta, max(k, 2), seed)
    return _krylov(problem.hessian_operator(theta, how, step), start, k, tol, 0.05, 300, True).pairs


def _random(theta, rows, seed):
    """Random rows to start from. They find as many copies of an eigenvalue; a single row can settle on λ2."""
    generator = torch.Generator().manual_seed(seed)
    rows = min(rows, len(theta))
    return torch.randn(rows, len(theta), generator=generator, dtype=theta.dtype).to(theta.device)


class Tracker:
    """The k largest eigenvalues along a run, each step started from the one before; a probe of `descent`.

        record={"sharpness": Tracker()}

    A call returns a float for k = 1, else an array of shape (k,); `pairs` holds the last `Pairs`, and `products`
    counts the Hessian-vector products so far. A step costs one product a pair, more only where the residual asks
    for it, and every third step, or where its eigenvalue comes near, one for a *guard*. The guard is one more
    direction, moved by a power iteration in the complement of the pairs. Without it the space of a single pair has
    one dimension: its residual stays tiny while a second eigenvalue rises past the first, and nothing shows. Every
    `refresh` calls the space is built anew with something random in it, which finds what the guard has not (a block
    of parameters decoupled from the rest).
    Two-layer nets with a closed-form Hessian need none of this: their spectrum is dense and exact.

    Parameters
    ----------
    k : int
    tol : float
        Error of the values, in units of λ1; see `lanczos`.
    angle : float
        Error of the vectors in radians, where the gap allows. `pairs.angles` are worst cases; by how much the true
        ones stay below them is learnt from the steps that do add to the space, and used with a margin of two.
    how, step
        See `Problem.hessian_operator`.
    refresh : int
    """

    def __init__(self, k=1, tol=1e-3, angle=0.042, how="reverse", step=None, refresh=25):
        self.k, self.tol, self.angle = _checks.count("k", k), _checks.positive("tol", tol), angle
        self.how, self.step, self.refresh = how, step, _checks.count("refresh", refresh)
        self.calls = self.products = self._since = 0
        self._gap, self._closing = np.inf, 0.0
        self.pairs, self._guard, self._below, self._room, self._past, self._slacks = None, None, None, None, [], []

    def __call__(self, problem, theta):
        theta = problem.parameters(theta)
        if self.k > problem.dim:
            raise ValueError(f"k must be at most the dimension, {problem.dim}, not {self.k}")
        if _is_cheaply_dense(problem, theta):
            return self._exact(problem, theta)
        known = self._guard is not None and len(self._guard) == problem.dim
        if not known:
            self._past = []
        cold = not known or self.calls % self.refresh == 0
        guarded = cold or self._guard_is_due()
        start = list(_predict(self._past)) if known else []
        if known and guarded:
            start.append(self._outside(start))
        if known and cold:  # something new beside what is known, in the same rows
            new = _random(theta, len(start), self.calls)
            start = [_unit(a) + _unit(b) for a, b in zip(start, new, strict=True)]
        elif cold:
            start = _random(theta, max(self.k, 2), self.calls)
        operator = problem.hessian_operator(theta, self.how, self.step)
        slack = 1.0 if cold else (2 * torch.stack(self._slacks).amax(0)).clamp(0.05, 1)
        tol, angle = self.tol / 2 if cold else self.tol, self.angle / slack
        below = None if guarded else self._below
        found = _krylov(operator, start, self.k, tol, angle, 300, cold, below, self._room)
        self.pairs, self._room = found.pairs, found.room
        self._since += 1
        if guarded:
            gap = self.pairs.values[-1] - found.below if found.below is not None else np.inf
            closing = 0.0 if cold else max(self._gap - gap, 0.0) / self._since
            self._below, self._guard, self._gap, self._closing, self._since = found.below, found.guard, gap, closing, 0
        if cold:
            self._slacks = [torch.ones(self.k)]
        elif found.slack is not None:
            self._slacks = [*self._slacks[-2:], found.slack]
        self._past = [*self._past[-2:], self.pairs.vectors.T]
        self.calls, self.products = self.calls + 1, self.products + self.pairs.products
        return self._values()

    def _outside(self, start):
        """The guard; or, where a pair has turned into it since the last guarded step, the direction that this step's
        space of pairs and guard has outside `start`."""
        if torch.stack([self._guard @ v for v in start]).norm() < self._guard.norm() / 2:
            return self._guard
        space = [*self._past[-1 - self._since], _unit(self._guard)]
        overlaps = torch.stack([torch.stack([a @ b for b in start]) for a in space])
        left = torch.linalg.svd(overlaps.double().cpu())[0][:, -1].tolist()
        return sum(share * vector for share, vector in zip(left, space, strict=True))

    def _guard_is_due(self):
        """Every third step, and always where the guard may have closed its gap by now."""
        within = self._gap - self._closing * (self._since + 1)
        return self._since >= 2 or within < self.tol * self.pairs.values[0]

    def _exact(self, problem, theta):
        values, vectors = torch.linalg.eigh(_dense_hessian(problem, theta))
        values, vectors, exact = values.flip(0), vectors.flip(1)[:, : self.k], np.zeros(self.k)
        self.pairs = Pairs(values[: self.k].numpy(), vectors, exact, _gaps(values)[: self.k].numpy(), exact, 0)
        return self._values()

    def _values(self):
        return self.pairs.values[0].item() if self.k == 1 else self.pairs.values


def _predict(past):
    """The next of up to three successive sets of unit vectors, rows, from how the last ones moved.

    v + β(v - v') with the β ∈ [-1, 1] that would have been best one step before: 1 where the vectors drift, -1
    where they swing to and fro, as they do at the edge of stability. β is ⟨v'-v'', v-v'⟩ / ‖v'-v''‖², of which
    scalar products of unit vectors are all that is needed.
    """
    if len(past) < 3:
        return past[-1]
    older, old, last = past
    near, far, between = _dots(old, last), _dots(older, last), _dots(older, old)
    between = between * near.sign() * far.sign()  # an eigenvector has no sign
    moved = 2 - 2 * between
    beta = (near.abs() - far.abs() + between - 1) / moved.clamp_min(torch.finfo(last.dtype).eps)
    beta = beta.clamp(-1, 1)[:, None]
    return ((1 + beta) * last).addcmul_(beta * near.sign()[:, None], old, value=-1)


def _unit(vector):
    return vector / vector.norm()


def _dots(a, b):
    """The scalar product of each row of a with that of b, without a third matrix."""
    return torch.stack([x @ y for x, y in zip(a, b, strict=True)])


def spectrum(problem, theta):
    """All eigenvalues λ1 ≥ λ2 ≥ … and eigenvectors of the Hessian ∇²L(θ), from the dense matrix.

    Raises ValueError for more than 2,000 parameters, where the dense matrix is the wrong tool, and
    FloatingPointError where the Hessian is not finite. The equivalent elsewhere:
    `numpy.linalg.eigh(torch.func.hessian(L)(θ))`.
    """
    values, vectors = torch.linalg.eigh(_dense_hessian(problem, theta))
    return Spectrum(values.flip(0).numpy(), vectors.flip(1).numpy())


def top_eigenvalue(problem, theta):
    """The sharpness λmax, the largest eigenvalue of ∇²L(θ), a float. Use it as a probe of `descent.gd`.

    From the dense matrix for small problems, else by `top_eigenpairs`. Along a run of a large problem
    `Tracker` is several times cheaper.
    """
    if problem.dim <= SMALL or _is_cheaply_dense(problem, problem.parameters(theta)):
        return torch.linalg.eigvalsh(_dense_hessian(problem, theta))[-1].item()
    return top_eigenpairs(problem, theta).values[0].item()


def critical_learning_rate(problem, theta):
    """η_crit = 2/λmax: the learning rate above which GD is linearly unstable at θ; inf where λmax ≤ 0."""
    top = top_eigenvalue(problem, theta)
    return 2 / top if top > 0 else np.inf


def _is_cheaply_dense(problem, theta):
    return problem.dim <= LARGEST_CLOSED and _has_closed_form(problem, theta)


def _has_closed_form(problem, theta):
    return _two_layer.applies(problem) and theta.dtype == torch.float64


def _dense_hessian(problem, theta):
    if problem.dim > LARGEST_DENSE:
        raise ValueError(
            f"problem has {problem.dim} parameters; the dense Hessian stops at {LARGEST_DENSE}: use top_eigenpairs"
        )
    theta = problem.parameters(theta)
    closed_form = _has_closed_form(problem, theta)
    hessian = (_two_layer.hessian(problem, theta) if closed_form else problem.hessian(theta)).double().cpu()
    if not torch.isfinite(hessian).all():
        raise FloatingPointError("theta gives a Hessian with NaN or infinite entries")
    return hessian
