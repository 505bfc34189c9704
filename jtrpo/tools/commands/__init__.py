"""The commands of the command line, one a file: a dataclass whose fields are the options, and ``run``, which does it."""

from jtrpo.tools.commands.envs import Envs
from jtrpo.tools.commands.evaluate import Evaluate
from jtrpo.tools.commands.export import Export
from jtrpo.tools.commands.plot import Plot
from jtrpo.tools.commands.report import Report
from jtrpo.tools.commands.train import Train
from jtrpo.tools.commands.tune import Tune
from jtrpo.tools.commands.watch import Watch

COMMANDS = (Train, Tune, Evaluate, Watch, Plot, Report, Export, Envs)
"""In the order in which ``jtrpo --help`` lists them."""
