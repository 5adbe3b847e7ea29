"""Import libraries without what they say of themselves: nobody who writes `from pipelines import ...` can mend it."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quietly() -> Generator[None]:
    """Leave out log lines up to warnings, and tqdm's wish for ipywidgets; the root logger stays as it was.

    Apache Beam logs without a handler of its own that parts for Google's cloud are not installed, which would give the
    root logger one.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")
            yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers
