"""``jtrpo envs``: what can be trained on."""

from dataclasses import dataclass

from jtrpo.envs.gymnax import environment_ids


@dataclass(frozen=True)
class Envs:
    """List the ids of the environments that can be trained on."""

    def run(self) -> None:
        """Print the ids, one a line."""
        print("\n".join(environment_ids()))
