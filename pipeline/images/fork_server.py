"""The server from which the processes of `pack` are forked."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext

PRELOADED = ["pipeline.ffcv_patches", "ffcv.writer", "pipeline.images.beton_writer"]


def fork_server() -> ForkServerContext:
    """Return the context of a server that imports FFCV, which takes seconds, once for all splits.

    Forking the process that calls this would not be safe.
    """
    # numba's other threading layer, TBB, hangs when the fork server ends on a single core.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
