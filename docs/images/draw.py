"""Draws the diagrams of the documentation: ``python docs/images/draw.py`` writes the three .svg files beside this script.

Each is 380 units wide, so that its text is readable on a phone, and brings its own background for light and dark.
"""

from pathlib import Path

import contourpy
import jax
import jax.numpy as jnp
import numpy as np

import jtrpo

HERE = Path(__file__).parent
WIDTH = 380
STYLE = """
  .card{fill:#fff} .box{fill:#eef2f8;stroke:#8a97ab} .key{fill:#dbe7fb;stroke:#3c6fd1} text{fill:#1d2530;font:12px sans-serif}
  .t{font-weight:bold} .s{font-size:11px} .m{text-anchor:middle}
  .o{paint-order:stroke;stroke:#fff;stroke-width:3px}
  .l{stroke:#5b6675;fill:none;stroke-width:1.5} .h{fill:#5b6675}
  .a{stroke:#1f5fd0;fill:none;stroke-width:2} .b{stroke:#c2410c;fill:none;stroke-width:2} .c{stroke:#8a97ab;fill:none}
  .in{fill:#3c6fd1;fill-opacity:.16;stroke:#1f5fd0;stroke-width:2} .da{fill:#1f5fd0} .db{fill:#c2410c} .d{stroke-dasharray:5 4}
  @media (prefers-color-scheme:dark){.card{fill:#1b2028} .box{fill:#2a313d;stroke:#6f7c91} .key{fill:#243a63;stroke:#7aa5f5}
  text{fill:#e7ebf1} .l{stroke:#a9b4c4} .h{fill:#a9b4c4} .a{stroke:#7aa5f5} .b{stroke:#fb9a6a} .c{stroke:#59657a}
  .in{fill:#7aa5f5;stroke:#7aa5f5} .o{stroke:#1b2028} .da{fill:#7aa5f5} .db{fill:#fb9a6a}}
"""


def write(name: str, height: int, title: str, *parts: str) -> None:
    """One picture as a file."""
    marker = (
        '<marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="h" d="M0 0L8 4L0 8z"/></marker>'
    )
    (HERE / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n<defs>{marker}</defs>\n"
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="8"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place; ``m`` in the kind centres them."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def box(x: float, y: float, width: float, title: str, *lines: str, kind: str = "box") -> str:
    """A box with a bold title and small lines, 24 units high and 15 more for each line."""
    middle = x + width / 2
    words = [
        text(middle, y + 16, title, "t m"),
        *(text(middle, y + 31 + 15 * i, s, "s m") for i, s in enumerate(lines)),
    ]
    height = 24 + 15 * len(lines)
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="5"/>' + "".join(words)


def arrow(*points: tuple[float, float]) -> str:
    """A line with a head at its end."""
    return f'<polyline class="l" marker-end="url(#h)" points="{" ".join(f"{x:g},{y:g}" for x, y in points)}"/>'


def batch() -> None:
    """The way of a batch through one update."""
    top, low = 290, 548
    write(
        "update", low + 83, "The way of a batch through one update",
        box(20, 12, 340, "Collect", "num_steps of each of num_envs environments, at once:",
            "observation, action and its log-probability, reward,", "how the episode ended, and what really followed"),
        arrow((190, 81), (190, 97)),
        box(20, 99, 340, "Set aside what is not finite", "such a sample gets the weight zero"),
        arrow((190, 138), (190, 154)),
        box(20, 156, 340, "Learn the statistics", "scale of the rewards, mean and deviation of observations,",
            "moved by no more than a tenth of the trust region"),
        arrow((190, 210), (190, 226)),
        box(20, 228, 340, "Estimate advantages", "from the critic's values: generalised advantage estimation"),
        arrow((118, 267), (118, top - 2)), text(126, 282, "advantages", "s"),
        arrow((305, 267), (305, top - 2)), text(252, 282, "targets", "s"),
        box(20, top, 196, "Linearise the policy", "once, at the old parameters θ", kind="key"),
        arrow((118, top + 39), (118, top + 53)),
        box(20, top + 55, 196, "Gradient g", "of the surrogate objective L", kind="key"),
        arrow((118, top + 94), (118, top + 108)),
        box(20, top + 110, 196, "Natural gradient x", "conjugate gradients: (F + λI) x = g", kind="key"),
        arrow((118, top + 149), (118, top + 163)),
        box(20, top + 165, 196, "Full step", "to the edge of the trust region", kind="key"),
        arrow((118, top + 204), (118, top + 218)),
        box(20, top + 220, 196, "Line search", "the first candidate with", "mean KL ≤ max_kl and a better L;",
            "else θ stays, with a reason", kind="key"),
        box(242, top, 118, "Fit the critic", "towards the targets"),
        arrow((118, top + 289), (118, top + 303)), arrow((301, top + 39), (301, top + 303)),
        box(20, top + 305, 340, "New state, and metrics"),
    )  # fmt: skip


def rooms() -> None:
    """The packages, and who may import whom."""
    write(
        "rooms", 330, "The packages of jtrpo, and their imports",
        box(20, 12, 340, "tools",
            "command line, checkpoints, progress, logs, plots,", "reports, animations: all that touches files"),
        arrow((190, 66), (190, 90)), text(198, 83, "imports", "s"),
        box(20, 92, 340, "training", "settings, state, collections, statistics, the critic's fit,",
            "trainer, make_train; trainers for environments in Python"),
        arrow((75, 146), (75, 170)), arrow((190, 146), (190, 170)), arrow((305, 146), (305, 170)),
        box(20, 172, 108, "envs", "one protocol;", "gymnax, Brax,", "Gymnasium"),
        box(136, 172, 108, "networks", "policies and", "critics, from the", "spaces"),
        box(252, 172, 108, "core", "update, Fisher", "products, search,", "distributions", kind="key"),
        arrow((190, 241), (190, 262), (306, 262), (306, 243)),
        text(190, 290, "core knows arrays and pure functions only,", "s m"),
        text(190, 306, "and imports nothing else of jtrpo.", "s m"),
    )  # fmt: skip


def region() -> None:
    """A policy with two parameters, and one update of it: everything in the picture is computed by jtrpo."""
    start, delta, size = jnp.array([1.2, -0.3]), 0.15, 340
    one = jnp.ones((1, 1))

    def policy(params, observation):
        """Three actions in one state; the logit of the third is 0."""
        return jtrpo.Categorical(observation @ jnp.concatenate([params, jnp.zeros(1)])[None])

    value = jnp.array([-1.0, 0.2, 1.0])  # of each action
    old = policy(start, one)
    action, weight = jnp.arange(3), jax.nn.softmax(old.logits[0])  # every action, weighted by its probability
    seen = jnp.ones((3, 1))
    batch = jtrpo.Batch(seen, action, value, policy(start, seen).log_prob(action), weight)
    numbers = {"max_kl": delta, "cg_damping": 0.0, "cg_iterations": 20, "normalize_advantage": False}
    new, info = jtrpo.trpo_update(policy, start, batch, **numbers)
    full, _ = jtrpo.trpo_update(policy, start, batch, constraint="none", **numbers)

    def surrogate(params):
        return jtrpo.surrogate(policy(params, seen), batch)

    gradient = jax.grad(surrogate)(start)
    fisher = jnp.stack([jtrpo.fisher_vector_product(policy, start, one, v) for v in jnp.eye(2)])

    reach, places = 2.3, 161
    axis = np.linspace(-reach, reach, places)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1), jnp.float32) + start
    kl = jax.vmap(jax.vmap(lambda params: old.kl(policy(params, one))[0]))(grid)
    better = jax.vmap(jax.vmap(surrogate))(grid)
    quadratic = 0.5 * jnp.einsum("...i,ij,...j", grid - start, fisher, grid - start)

    def at(point) -> tuple[float, float]:
        x, y = (np.asarray(point, float) - np.asarray(start)) / reach
        return round(20 + size * (x + 1) / 2, 1), round(12 + size * (1 - y) / 2, 1)

    def lines(field, level: float, kind: str, every: int = 2) -> str:
        found = contourpy.contour_generator(axis, axis, np.asarray(field)).lines(float(level))
        paths = [
            "M" + "L".join(f"{x} {y}" for x, y in (at(p + np.asarray(start)) for p in line[::every])) for line in found
        ]
        closed = "z" if kind == "in" else ""
        return f'<path class="{kind}" d="{" ".join(path + closed for path in paths)}"/>'

    levels = np.linspace(float(better.min()), float(better.max()), 12)[1:-1]
    tip = start + gradient / jnp.linalg.norm(gradient) * 0.9
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = at(start), at(tip), at(full), at(new)
    assert info.accepted
    assert info.backtracks >= 1
    write(
        "region", 466, "The trust region of a policy with two parameters",
        *(lines(better, level, "c", 4) for level in levels),
        lines(kl, delta, "in"), lines(quadratic, delta, "a d"),
        f'<path class="b d" d="M{x0} {y0}L{x1} {y1}"/>', text(x1 - 12, y1 - 8, "gradient", "o"),
        f'<path class="b" d="M{x0} {y0}L{x2} {y2}"/>',
        f'<circle class="da" cx="{x0}" cy="{y0}" r="5"/>', text(x0 + 9, y0 + 4, "θ, the old policy", "o"),
        f'<circle class="card" cx="{x2}" cy="{y2}" r="5"/><circle class="b" cx="{x2}" cy="{y2}" r="5"/>',
        text(x2 - 58, y2 + 4, "full step", "o"),
        f'<circle class="db" cx="{x3}" cy="{y3}" r="5"/>', text(x3 + 8, y3 + 16, "θ\u2032, the new policy", "o"),
        '<path class="in" d="M20 370h26v14h-26z"/>', text(54, 382, "trust region: KL(old ‖ new) ≤ δ"),
        '<path class="a d" d="M20 398h26"/>', text(54, 402, "its quadratic model, by the Fisher matrix"),
        '<path class="c" d="M20 418h26"/>', text(54, 422, "the objective L; it grows towards the gradient"),
        '<path class="b" d="M20 438h26"/>', text(54, 442, "natural gradient: the full step leaves the region,"),
        text(54, 457, f"the line search takes {float(jnp.linalg.norm(new - start) / jnp.linalg.norm(full - start)):.2g} of it"),
    )  # fmt: skip


if __name__ == "__main__":
    batch()
    rooms()
    region()
