"""``python -m jtrpo``: the command line."""

from jtrpo.tools.cli import main

main()
