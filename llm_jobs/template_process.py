"""Render a chat template in a process of its own, with little time and memory: run as a script by chat_template.py.

stdin {template, variables, date} ─▶ stdout {text} or {error}

A template is a program that came with a model. Jinja's sandbox keeps it from files; here it may also loop or write
without end, and only this process ends. It imports nothing of ours, so that it can be run from anywhere.
"""

import json
import sys
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

SECONDS = 2  # of the processor; templates take milliseconds
MEMORY = 512 << 20  # bytes beyond those that the imports took


def limit_this_process() -> None:
    """Bound what rendering may take, where the system can."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no resource, macOS no bound on memory
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def renderer() -> Any:
    """Import the module of transformers that renders chat templates, without the rest, whose import takes a second."""
    for name in ("transformers", "transformers.utils"):
        spec = find_spec(name)
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    return import_module("transformers.utils.chat_template_utils")


def stop_the_clock(chat_template_utils: Any, date: str) -> None:
    """Let `strftime_now` of templates tell one day for ever."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            del tz
            return datetime.strptime(date, "%Y-%m-%d")

    chat_template_utils.datetime = Fixed


def main() -> None:
    """Answer what stands on stdin."""
    asked = json.loads(sys.stdin.read())
    chat_template_utils = renderer()
    stop_the_clock(chat_template_utils, asked["date"])
    limit_this_process()
    try:
        (text,), _ = chat_template_utils.render_jinja_template(chat_template=asked["template"], **asked["variables"])
        answer = {"text": text[: asked["most"]]}
    except MemoryError:
        answer = {"error": "it writes without end"}
    except Exception as error:  # whatever a template raises
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
