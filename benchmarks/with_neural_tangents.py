"""neural-tangents as a contestant: it needs an older JAX than the other peers, hence an environment of its own."""

import contest
import numpy as np


def build(section, name, task):
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt

    given = np.load(task["inputs"])
    weights = [given[f"w{i}"] for i in range(len(given.files) - 1)]  # as in torch, outputs first
    sizes = [w[0].size for w in weights]
    # its structured derivatives know x @ w as a layer, but not x @ w.T: turn the matrices beforehand
    weights = [jnp.asarray(w if w.ndim == 4 else w.T) for w in weights]
    x = jnp.asarray(given["x"])

    def network(weights, x):
        for i, w in enumerate(weights):
            if w.ndim == 4:
                x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME") / sizes[i] ** 0.5
            else:
                x = (x.reshape(len(x), -1) if x.ndim > 2 else x) @ w / sizes[i] ** 0.5
            x = x if i == len(weights) - 1 else jax.nn.relu(x)
        return x

    way = {"fcn": nt.NtkImplementation.STRUCTURED_DERIVATIVES, "cnn": nt.NtkImplementation.JACOBIAN_CONTRACTION}
    kernel = jax.jit(nt.empirical_ntk_fn(network, trace_axes=(-1,), vmap_axes=0, implementation=way[task["net"]]))
    return lambda: {"kernel": np.asarray(kernel(x, None, weights))}


if __name__ == "__main__":
    contest.serve(build)
