"""Rollout, normalisation, critic fit, and the trainer made of them."""
