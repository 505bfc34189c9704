"""A whole update of a small policy in NumPy and float64: dense matrices, every derivative by hand."""

import numpy as np


class Reference:
    names = ("b1", "b2", "log_std", "w1", "w2")

    def __init__(self, params):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.gaussian = "log_std" in params
        self.names = [name for name in self.names if name in params]

    def ravel(self, tree):
        return np.concatenate([np.asarray(tree[name], np.float64).ravel() for name in self.names])

    def moved(self, step):
        new, start = {}, 0
        for name in self.names:
            old = self.params[name]
            new[name] = old + step[start : start + old.size].reshape(old.shape)
            start += old.size
        return Reference(new)

    def forward(self, x):
        """Network outputs [B, K] (for the Gaussian followed by log_std) and their Jacobian [B, K, P]."""
        w1, b1, w2, b2 = (self.params[name] for name in ("w1", "b1", "w2", "b2"))
        h = np.tanh(x @ w1 + b1)
        z = h @ w2 + b2
        (size, k), slope = z.shape, 1 - h**2
        columns = {
            "b1": np.einsum("bh,hk->bkh", slope, w2),
            "b2": np.broadcast_to(np.eye(k), (size, k, k)),
            "w1": np.einsum("bi,bh,hk->bkih", x, slope, w2),
            "w2": np.einsum("bh,kl->bkhl", h, np.eye(k)),
        }
        if self.gaussian:
            columns["log_std"] = np.zeros((size, k, k))
        jacobian = np.concatenate([columns[name].reshape(size, k, -1) for name in self.names], axis=-1)
        if self.gaussian:
            columns = {name: np.zeros((size, k, column[0, 0].size)) for name, column in columns.items()}
            columns["log_std"] = np.broadcast_to(np.eye(k), (size, k, k))
            rows = np.concatenate([columns[name] for name in self.names], axis=-1)
            jacobian = np.concatenate([jacobian, rows], axis=1)
            z = np.concatenate([z, np.broadcast_to(self.params["log_std"], (size, k))], axis=1)
        return z, jacobian

    def log_p(self, z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def split(self, z):
        return z[:, : z.shape[1] // 2], z[:, z.shape[1] // 2 :]

    def log_prob(self, x, action):
        z, _ = self.forward(x)
        if not self.gaussian:
            return self.log_p(z)[np.arange(len(x)), action]
        mean, log_std = self.split(z)
        return (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    def score(self, x, action):
        """Gradient of log_prob in the outputs."""
        z, _ = self.forward(x)
        if not self.gaussian:
            return np.eye(z.shape[1])[action] - np.exp(self.log_p(z))
        mean, log_std = self.split(z)
        return np.concatenate([(action - mean) / np.exp(2 * log_std), ((action - mean) / np.exp(log_std)) ** 2 - 1], 1)

    def entropy(self, x):
        """Entropy [B] and its gradient in the outputs."""
        z, _ = self.forward(x)
        if not self.gaussian:
            log_p = self.log_p(z)
            entropy = -(np.exp(log_p) * log_p).sum(-1)
            return entropy, -np.exp(log_p) * (log_p + entropy[:, None])
        mean, log_std = self.split(z)
        entropy = (log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)
        return entropy, np.concatenate([np.zeros_like(mean), np.ones_like(log_std)], 1)

    def kl(self, new, x):
        """KL(self || new), [B]."""
        z, other = self.forward(x)[0], new.forward(x)[0]
        if not self.gaussian:
            log_p, log_q = self.log_p(z), self.log_p(other)
            return (np.exp(log_p) * (log_p - log_q)).sum(-1)
        (m, s), (n, t) = self.split(z), self.split(other)
        return (t - s + (np.exp(2 * s) + (m - n) ** 2) / (2 * np.exp(2 * t)) - 0.5).sum(-1)

    def fisher(self, x, weight):
        z, jacobian = self.forward(x)
        if self.gaussian:
            _, log_std = self.split(z)
            diagonal = np.concatenate([np.exp(-2 * log_std), np.full_like(log_std, 2)], 1)
            metric = diagonal[:, :, None] * np.eye(z.shape[1])
        else:
            p = np.exp(self.log_p(z))
            metric = p[:, :, None] * np.eye(z.shape[1]) - p[:, :, None] * p[:, None, :]
        return np.einsum("b,bkp,bkl,blq->pq", weight, jacobian, metric, jacobian)


def cg_loop(matrix, b, iterations, tolerance):
    x, r, p, k = np.zeros_like(b), b.copy(), b.copy(), 0
    while k < iterations and np.linalg.norm(r) > tolerance * np.linalg.norm(b):
        alpha = (r @ r) / (p @ matrix @ p)
        x, previous = x + alpha * p, r @ r
        r = b - matrix @ x
        p = r + (r @ r) / previous * p
        k += 1
    return x, k


def reference_update(
    old, x, action, advantage, log_prob, weight, _cost_advantage=None, *, max_kl=0.01, cg_iterations=10, cg_damping=0.1,
    cg_tolerance=1e-5, backtrack_factor=0.8, max_backtracks=10, entropy_coefficient=0.0, fisher_rows=slice(None), normalize=True,
):  # fmt: skip
    w = weight / weight.sum()
    if normalize:
        mean = w @ advantage
        advantage = (advantage - mean) / (np.sqrt(w @ (advantage - mean) ** 2) + 1e-8)

    def objective(policy):
        ratio = np.exp(policy.log_prob(x, action) - log_prob)
        return w @ (ratio * advantage + entropy_coefficient * policy.entropy(x)[0])

    _, jacobian = old.forward(x)
    ratio = np.exp(old.log_prob(x, action) - log_prob)
    slope = (ratio * advantage)[:, None] * old.score(x, action) + entropy_coefficient * old.entropy(x)[1]
    g = np.einsum("b,bk,bkp->p", w, slope, jacobian)
    fisher = old.fisher(x[fisher_rows], weight[fisher_rows] / weight[fisher_rows].sum())
    damped = fisher + cg_damping * np.eye(len(g))
    direction, iterations = cg_loop(damped, g, cg_iterations, cg_tolerance)
    full = np.sqrt(2 * max_kl / (direction @ damped @ direction)) * direction

    backtracks, accepted, new = 0, False, old
    for k in range(max_backtracks):
        candidate = old.moved(backtrack_factor**k * full)
        if w @ old.kl(candidate, x) <= max_kl and objective(candidate) > objective(old):
            accepted, new = True, candidate
            break
        backtracks += 1
    step = new.ravel(new.params) - old.ravel(old.params)
    return new, {
        "objective_before": objective(old),
        "objective_after": objective(new),
        "predicted_improvement": g @ step,
        "kl": w @ old.kl(new, x),
        "kl_max": old.kl(new, x)[w > 0].max(),
        "entropy": w @ new.entropy(x)[0],
        "gradient_norm": np.linalg.norm(g),
        "cg_residual": np.linalg.norm(g - damped @ direction) / np.linalg.norm(g),
        "cg_iterations": iterations,
        "curvature": direction @ fisher @ direction,
        "step_size": np.linalg.norm(step),
        "backtracks": backtracks,
        "accepted": accepted,
    }
