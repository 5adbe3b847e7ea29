"""Runners elsewhere, and one pool of workers: Beam's own job service, and Prism and Flink where they are installed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRISM = ROOT / "build/prism/prism"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(port: int, *command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server of Beam in another folder, with the package where workers have it: on their path."""
    with started(port, [sys.executable, "-m", *command], folder) as server:
        yield server


@contextmanager
def started(port: int, command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder until it listens at the port; end it afterwards."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests/pipelines")))
    variables = {"PYTHONPATH": paths, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder, env=os.environ | variables, **quiet)
    try:
        for _ in range(1200):
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, f"{command} ended"
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def job_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Beam's own job service for runners elsewhere; its port."""
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    with serving(port, module, "--port", str(port), folder=tmp_path_factory.mktemp("service")):
        yield port


@pytest.fixture(scope="session")
def worker_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A pool that starts workers when a runner asks for them; its port."""
    port = free_port()
    module = "apache_beam.runners.worker.worker_pool_main"
    with ExitStack() as stack:
        pool = serving(port, module, "--service_port", str(port), folder=tmp_path_factory.mktemp("elsewhere"))
        stack.enter_context(pool)
        yield port


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Beam's runner in Go, as `make prism` builds it; its port."""
    if not PRISM.exists():
        pytest.skip(f"no {PRISM.relative_to(ROOT)}: make prism")
    port = free_port()
    command = [str(PRISM), "--job_port", str(port), "--serve_http=false", "--idle_shutdown_timeout=-1ms"]
    with started(port, command, tmp_path_factory.mktemp("prism")):
        yield port


@pytest.fixture(scope="session")
def flink() -> int:
    """The port of the job server of a Flink cluster, which `make flink` starts."""
    if "FLINK_JOB_PORT" not in os.environ:
        pytest.skip("no Flink: make flink")
    return int(os.environ["FLINK_JOB_PORT"])


@pytest.fixture(params=["job_service", "prism", "flink"])
def portable(request: pytest.FixtureRequest, worker_pool: int) -> tuple[str, ...]:
    """Flags of Beam that have a runner give work to the pool's workers."""
    return (
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{request.getfixturevalue(request.param)}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{worker_pool}",
    )
