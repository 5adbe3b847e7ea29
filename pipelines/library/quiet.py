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


@contextmanager
def without_bars() -> Generator[None]:
    """Load models without the progress bars of transformers; the caller's setting comes back."""
    from transformers.utils import logging as told

    had_bars = told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            told.enable_progress_bar()
