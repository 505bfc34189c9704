"""Adapter for the Arcade Learning Environment, stepped on threads of C++ (``pip install "jtrpo[atari]"``)."""

from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv

from jtrpo.envs.resetting import check_known, missing

PREFIX = "atari:"
FOR_TWO = ("combat", "joust", "maze_craze", "warlords")
"""Games without a mode for one player: ALE's vector environment ends the process over them."""


def games() -> dict[str, str]:
    """Names such as ``SpaceInvaders``, and the package's own."""
    from ale_py import roms

    return {
        "".join(map(str.capitalize, name.split("_"))): name for name in roms.get_all_rom_ids() if name not in FOR_TWO
    }


def look_up(env_id: str) -> dict[str, Any]:
    """What an id such as ``atari:Breakout`` stands for: the fields of a ``HostEnvironment``.

    Four grey pictures of 84 x 84, each action held for four frames. In training an episode ends where a life is lost, while the
    game goes on, and rewards are clipped to [-1, 1]; evaluation plays for the score, to the end of a game.

    Raises:
        ValueError: the package is not installed, or an unknown game.
    """
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise missing(env_id, "the Arcade Learning Environment", "atari", error) from error
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, games(), "the Arcade Learning Environment")
    game = games()[name]

    def make(num_envs: int, seed: int) -> VectorEnv:
        # Not episodic_life, which begins a new game with each life, so that no policy would learn to serve a second ball.
        return AtariVectorEnv(game, num_envs, life_loss_info=True)

    def make_evaluation(num_envs: int, seed: int) -> VectorEnv:
        return AtariVectorEnv(game, num_envs, reward_clipping=False)

    one = make(1, 0)
    observation_space, action_space = one.single_observation_space, one.single_action_space
    one.close()
    return {
        "name": env_id,
        "observation_space": observation_space,
        "action_space": action_space,
        "make": make,
        "make_evaluation": make_evaluation,
        "mode": AutoresetMode.NEXT_STEP,
    }
