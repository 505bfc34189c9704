"""What touches the outside world: the command line, progress, plots."""
