"""What sb3-contrib's TRPO makes of a given batch and given weights; runs where sb3-contrib is installed, needs nothing of jtrpo.

    sb3/bin/python benchmarks/peers/sb3_values.py QUESTION.npz ANSWER.npz

``benchmarks/peers/same_values.py`` writes the question and says what its arrays are. The update is the library's own
``train()``, the logged values are those of its logger.
"""

import copy
import sys
from typing import Any

import numpy as np


def answer(question: dict[str, np.ndarray], env: str, normalize: bool) -> dict[str, np.ndarray]:
    """Values by name: before the update, of it, and after it."""
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3.common.distributions import kl_divergence
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    torch.manual_seed(0)  # its conjugate gradients begin at random
    steps, envs = question["reward"].shape
    width = question["mlp_extractor.policy_net.0.bias"].shape[0]
    model = TRPO(
        "MlpPolicy", make_vec_env(env, envs), n_steps=steps, batch_size=steps * envs, policy_kwargs={"net_arch": [width, width]},
        gamma=float(question["gamma"]), gae_lambda=float(question["gae_lambda"]), normalize_advantage=normalize, device="cpu",
    )  # fmt: skip
    model.set_logger(configure(None, []))
    names = [name for name in model.policy.state_dict() if name in question]
    model.policy.load_state_dict({name: torch.as_tensor(question[name]) for name in names})

    def values(observation: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return model.policy.predict_values(torch.as_tensor(observation))

    # As collect_rollouts does it: the value of what follows a truncation goes into the reward.
    buffer, start = model.rollout_buffer, np.ones(envs, bool)
    for t in range(steps):
        bootstrap = model.gamma * values(question["final_observation"][t])[:, 0].numpy()
        reward = question["reward"][t] + np.where(question["truncated"][t], bootstrap, 0.0)
        log_prob = torch.as_tensor(question["log_prob"][t])
        observation = question["observation"][t]
        buffer.add(observation, question["action"][t], reward, start, values(observation), log_prob)
        start = question["terminated"][t] | question["truncated"][t]
    buffer.compute_returns_and_advantage(values(question["final_observation"][-1]), start)
    found: dict[str, Any] = {"gae advantage": buffer.advantages.copy(), "gae return": buffer.returns.copy()}
    buffer.advantages, buffer.returns = question["advantage"].copy(), question["return"].copy()

    flat = {name: torch.as_tensor(question[name].reshape(steps * envs, -1)) for name in ("observation", "action")}
    with torch.no_grad():  # a copy, as train() takes one: the policy gives one and the same object each time
        old = copy.copy(model.policy.get_distribution(flat["observation"]))
    new = model.policy.get_distribution(flat["observation"])
    action = flat["action"] if env == "Pendulum-v1" else flat["action"][:, 0]
    ratio = torch.exp(new.log_prob(action) - torch.as_tensor(question["log_prob"].reshape(-1)))
    objective = (ratio * torch.as_tensor(question["advantage"].reshape(-1))).mean()
    params, gradient, kl_gradient, _ = model._compute_actor_grad(kl_divergence(new, old).mean(), objective)
    names = [name for p in params for name, known in model.policy.named_parameters() if known is p]
    vector = torch.cat([torch.as_tensor(question[f"vector.{name}"]).reshape(-1) for name in names])
    found["objective before"] = objective.item()
    found["gradient"] = gradient.detach().numpy()
    found["fisher product"] = model.hessian_vector_product(params, kl_gradient, vector).detach().numpy()
    found["names"] = np.array(names)

    model.train()
    found |= {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
    found |= {name: model.policy.state_dict()[name].numpy() for name in names}
    return {name: np.asarray(value) for name, value in found.items()}


def main() -> None:
    """Read the question, write the answer."""
    import sb3_contrib
    import torch

    torch.set_num_threads(1)
    with np.load(sys.argv[1]) as file:
        arrays = dict(file)
    answers = {"version": np.array(sb3_contrib.__version__)}
    for env in sorted({name.split("/", 1)[0] for name in arrays}):
        question = {name.split("/", 1)[1]: value for name, value in arrays.items() if name.startswith(env + "/")}
        for normalize in (False, True):
            found = answer(question, env, normalize)
            answers |= {f"{env}/{normalize}/{name}": value for name, value in found.items()}
    np.savez(sys.argv[2], **answers)


if __name__ == "__main__":
    main()
