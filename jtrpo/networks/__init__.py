"""Flax policies and critics. The core does not need them: any ``policy(params, observation)`` will do."""
