"""Other libraries beside ours. Each runs in a virtual environment of its own: their dependencies do not agree."""
