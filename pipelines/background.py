"""Do something small again and again, in the background of a long piece of work."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], None], seconds: float) -> Generator[None]:
    """Call `action` every so many seconds, in a thread of its own, until the work inside ends, well or badly."""

    def repeat() -> None:
        while not is_over.wait(seconds):
            action()

    is_over = threading.Event()
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
