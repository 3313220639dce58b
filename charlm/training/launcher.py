"""Start ranks on this machine (`--ranks`, `--gpus`) by the elastic launcher that torchrun uses."""

import logging
import sys
import uuid

from charlm.errors import RankError

SAVING_SECONDS = 300
"""Time that ranks have to save when a signal ends them, before they are killed."""
MONITOR_SECONDS = 0.2


def start_ranks(n: int) -> int:
    """Run the current command in `n` processes, by torch's elastic launcher; return the exit code.

    A signal is passed to all of them, which save first.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # here: slow to import

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks report errors
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
        shutdown_timeout=SAVING_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "charlm", *sys.argv[1:])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), RankError.exit_code)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
