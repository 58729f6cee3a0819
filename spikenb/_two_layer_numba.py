"""The compiled kernels of `_two_layer`. Written so that LLVM turns every inner loop into vector instructions."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

MAGIC = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to a whole number, which then stands in the low bits
SIGN = np.int64(-(2**63))
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10


@intrinsic
def _bits(typing, x):
    """The 64 bits of a double, as an integer."""
    return types.int64(types.float64), lambda c, b, s, a: b.bitcast(a[0], ir.IntType(64))


@intrinsic
def _double(typing, i):
    """The double that has these 64 bits."""
    return types.float64(types.int64), lambda c, b, s, a: b.bitcast(a[0], ir.DoubleType())


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _tanh(x):
    """tanh x to a few ulp, without a branch and with one division.

    exp(-2|x|) = q e^s with q = 2^k and |s| ≤ ln2/2, and e^s = (1 + t)/(1 - t) with t = tanh(s/2), an odd polynomial
    in s that is as good as double precision (interpolated at Chebyshev nodes). So, without cancellation for small x,
    tanh|x| = (1 - q e^s)/(1 + q e^s) = ((1 - q) - t(1 + q))/((1 + q) - t(1 - q)).
    """
    sign = _bits(x) & SIGN
    size = _double(_bits(x) ^ sign)
    y = -2.0 * (20.0 if size > 20.0 else size)  # NaN stays NaN
    shifted = y * LOG2E + MAGIC
    k = shifted - MAGIC
    q = _double((_bits(shifted) << 52) + (1023 << 52))
    s = (y - k * LN2_HIGH) - k * LN2_LOW
    v = s * s
    p = 4.2027019376951583e-07
    p = p * v - 4.324764571120842e-06
    p = p * v + 4.271360090662865e-05
    p = p * v - 0.00042162697388655525
    p = p * v + 0.00416666666646172
    p = p * v - 0.04166666666666513
    t = (p * v + 0.5) * s
    above, below = 1.0 + q, 1.0 - q
    return _double(_bits((below - t * above) / (above - t * below)) | sign)


@njit(error_model="numpy", fastmath={"contract"})
def _hidden(h, x, w, b, a, f, relu):
    """h_ji = σ(w_j x_i + b_j), and f_i += Σ_j a_j h_ji."""
    for j in range(len(w)):
        wj, bj, aj, hj = w[j], b[j], a[j], h[j]
        if relu:
            for i in range(len(x)):
                hj[i] = max(wj * x[i] + bj, 0.0)
                f[i] += aj * hj[i]
        else:
            for i in range(len(x)):
                hj[i] = _tanh(wj * x[i] + bj)
                f[i] += aj * hj[i]


@njit(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _backward(h, x, r, a, step, change_a, change_w, change_b, relu):
    """step times Σ_i r_i ∂f_i/∂(a, w, b)."""
    for j in range(len(a)):
        hj = h[j]
        sum_w, sum_b, sum_a = 0.0, 0.0, 0.0
        if relu:
            for i in range(len(x)):
                d = r[i] if hj[i] > 0.0 else 0.0
                sum_a += r[i] * hj[i]
                sum_b += d
                sum_w += d * x[i]
        else:
            for i in range(len(x)):
                d = r[i] * (1.0 - hj[i] * hj[i])
                sum_a += r[i] * hj[i]
                sum_b += d
                sum_w += d * x[i]
        change_a[j], change_w[j], change_b[j] = step * sum_a, step * a[j] * sum_w, step * a[j] * sum_b


@njit(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _residuals(f, c, y, n, r):
    """r = f + c - y on the n real points, 0 on the padding; Σr and Σr²."""
    total, squares = 0.0, 0.0
    for i in range(n):
        r[i] = f[i] + c - y[i]
        total += r[i]
        squares += r[i] * r[i]
    return total, squares


@njit(error_model="numpy")
def _walk(theta, last, losses, lr, p, x, y, n, relu):
    m = (len(theta) - 1) // 3
    a, w, b = theta[:m], theta[m : 2 * m], theta[2 * m : 3 * m]
    h, f, r = np.empty((m, len(x))), np.empty(len(x)), np.zeros(len(x))
    change = np.empty_like(theta)
    for t in range(len(losses)):
        f[:] = 0.0
        _hidden(h, x, w, b, a, f, relu)
        total, squares = _residuals(f, theta[-1], y, n, r)
        losses[t] = p * squares
        if not math.isfinite(losses[t]):
            return t
        last[:] = theta
        step = -2.0 * p * lr
        _backward(h, x, r, a, step, change[:m], change[m : 2 * m], change[2 * m : 3 * m], relu)
        change[-1] = step * total
        theta += change
    return len(losses)


@njit(error_model="numpy", nogil=True, cache=True)
def one(theta, last, losses, lr, p, x, y, n, relu):
    """Walk from θ, in place; the number of finite losses. See `_two_layer.walk`."""
    return _walk(theta, last, losses, lr, p, x, y, n, relu)


@njit(error_model="numpy", nogil=True, cache=True, parallel=True)
def many(thetas, lasts, losses, done, lrs, p, x, y, n, relu):
    """Walk from each row of θ, the rows spread over the cores."""
    for k in prange(len(thetas)):
        done[k] = _walk(thetas[k], lasts[k], losses[k], lrs[k], p, x, y, n, relu)
