"""Two nights, undisturbed, whose state before and after each job every test may copy."""

import shutil
from collections.abc import Callable
from functools import partial
from multiprocessing import forkserver

import night_jobs
import pytest
from night_jobs import JOBS
from tiny_models import save_model, tiny_bert, tiny_llama
from undisturbed import Nights
from victims import counts, finished, run_counted, said

from pipelines.command.console import LIBRARY_SETTINGS


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """Started with what the command sets before it imports a library; later they no longer look.

    One that another test started, without, is stopped.
    """
    forkserver._forkserver._stop()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LIBRARY_SETTINGS.items():
            patch.setenv(name, value)
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    found = Nights(tmp_path_factory.mktemp("nights"))
    save_model(found.root / "bert", tiny_bert(3), is_chat=False)
    save_model(found.root / "llama", tiny_llama(4, 512), is_chat=True)
    night_jobs.write_inputs(found.root)
    found.before(JOBS[0]).mkdir()
    assert finished(night_jobs.first_night, found.before(JOBS[0])) == 0, said(found.before(JOBS[0]))
    for job in JOBS:
        shutil.copytree(found.before(job), found.after(job))
        assert finished(partial(run_counted, job), found.after(job)) == 0, said(found.after(job))
        found.calls[job] = counts(found.after(job))
    return found


@pytest.fixture(scope="session")
def count(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """The first of two numbers in `make test`, the second in `make faults`."""
    return lambda short, full: full if request.config.getoption("--faults") else short
