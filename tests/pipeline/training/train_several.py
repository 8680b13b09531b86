"""Run several training commands one after another in each process of a launcher, to start Python once.

python -m tests.pipeline.training.train_several '[["--data", ...], ["--data", ...]]'
"""

import json
import sys

from pipeline.train import main
from pipeline.training.processes import Processes

if __name__ == "__main__":
    Processes.close = lambda self: None  # the launcher's store cannot serve a second group
    sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))
