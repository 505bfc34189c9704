"""What can be trained on: one protocol, and one file per suite that adapts to it."""
