"""Load what takes long once in a process, whichever thread or job asks."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Loaded = TypeVar("Loaded")


def load_once(load: Callable[Args, Loaded]) -> Callable[Args, Loaded]:
    """Keep the last thing that a function loaded; threads that ask for it at the same time wait for one loading."""
    lock, last = threading.RLock(), dict[object, Loaded]()

    @wraps(load)
    def loaded(*args: Args.args, **kwargs: Args.kwargs) -> Loaded:
        key = (args, tuple(sorted(kwargs.items())))
        with lock:
            if key not in last:
                last.clear()  # before loading: there may be no room for two
                last[key] = load(*args, **kwargs)
            return last[key]

    return loaded
