"""What every test runs under: one thread, no network, no settings of the user; in CI the same examples each time."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# As in a command, whichever test comes first; processes that tests start must see to it themselves.
os.environ["TQDM_DISABLE"] = "1"
import tqdm.auto  # noqa: F401

del os.environ["TQDM_DISABLE"]

TESTS = Path(__file__).parent

os.fsync = lambda _: None  # a fifth of the time of a small night; the test of a power loss has a process of its own

for name in [name for name in os.environ if name.startswith("PPLUG_")]:
    del os.environ[name]

# Before torch is imported: later it no longer looks.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("fast", deadline=None, max_examples=10)
settings.load_profile("ci" if os.environ.get("CI") else "here")

LONG = (
    "accelerator",
    "docs/test_airflow.py",
    "docs/test_snippets.py",
    "docs/test_tutorial.py",
    "embedder/test_models.py::test_smollm2",
    "embedder/test_personas.py::test_a_large_user",
    "faults",
    "llm_jobs/test_architectures.py",
    "llm_jobs/test_beams.py",
    "llm_jobs/test_chat_template.py::test_a_template_that_never_ends",
    "llm_jobs/test_choices.py::test_choices_are_scored",
    "llm_jobs/test_continuous.py",
    "llm_jobs/test_endings.py",
    "llm_jobs/test_frozen_llm.py::test_in_bfloat16",
    "llm_jobs/test_frozen_llm.py::test_the_packaged_model",
    "llm_jobs/test_label_training.py",
    "llm_jobs/test_metrics.py::test_the_interval_is_that_of_a_slow_loop",
    "llm_jobs/test_rules.py",
    "llm_jobs/test_training.py::test_a_killed_run_resumes",
    "pipelines/audit",
    "pipelines/command/test_boundary.py::test_matrix_products",
    "pipelines/command/test_kinds_command.py::test_init_takes_the_labels",
    "pipelines/command/test_kinds_command.py::test_what_init_writes",
    "pipelines/command/test_streams.py",
    "pipelines/intake/test_bounds.py",
    "pipelines/intake/test_edits.py",
    "pipelines/intake/test_lamp.py",
    "pipelines/intake/test_pipes.py",
    "pipelines/intake/test_remote.py",
    "pipelines/intake/test_sources.py",
    "pipelines/library/test_library_warehouse.py",
    "pipelines/library/test_personalizer.py",
    "pipelines/nights/test_night.py::test_a_finished_shard",
    "pipelines/nights/test_night.py::test_an_error_of_a_worker_is_the_same_everywhere[2",
    "pipelines/nights/test_running.py",
    "pipelines/personas",
    "pipelines/remote",
    "pipelines/baselines/test_lora.py",
    "pipelines/store/test_location.py",
    "pipelines/tables/test_upsert.py",
    "pipelines/tables/test_statements.py",
    "pipelines/tables/test_warehouse.py",
    "pipelines/test_cli.py",
    "pipelines/test_compaction.py",
    "pipelines/test_compare.py",
    "pipelines/test_damage",
    "pipelines/test_demo.py",
    "pipelines/test_disk.py",
    "pipelines/test_encode.py",
    "pipelines/test_evaluate.py",
    "pipelines/test_expire.py",
    "pipelines/test_folds.py",
    "pipelines/test_forget.py",
    "pipelines/test_generate.py",
    "pipelines/test_ingest.py",
    "pipelines/test_interruption.py",
    "pipelines/test_many_nights.py",
    "pipelines/test_nightly.py",
    "pipelines/test_packaging.py",
    "pipelines/test_pages.py",
    "pipelines/test_people.py",
    "pipelines/test_power_loss.py",
    "pipelines/test_report.py",
    "pipelines/test_sharing.py",
    "pipelines/test_since.py",
    "pipelines/test_train.py",
    "pipelines/test_vllm_engine.py",
    "test_readme.py",
)
"""Files and folders that `make test-fast` leaves out: processes that are killed, servers, and whole nights again and
again. What it keeps has tests of every part of the product; it is to stay under 90 seconds on two cores."""

KEPT = (
    "pipelines/audit/test_audit.py::test_too_few_users",
    "pipelines/library/test_library_warehouse.py::test_it_is_the_warehouse_of_the_jobs",
    "pipelines/test_encode.py::test_every_persona_is_what_ten_lines",
    "pipelines/test_generate.py::test_every_task_is_answered_or_rejected_exactly_once",
    "pipelines/test_ingest.py::test_every_malformed_line",
)
"""Tests of those files that `make test-fast` runs all the same: one whole way of each job."""

TOGETHER = ("faults", "pipelines/remote", "pipelines/test_forget.py", "pipelines/test_report.py")
"""Files and folders whose tests share something that takes long to make: one process runs them (`--dist loadgroup`)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run tests/faults in full, not its short version")
    parser.addoption("--fast", action="store_true", help="leave out what takes long (LONG in tests/conftest.py)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        settings.load_profile("fast")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out whole files that take long before they are imported: that is half of what collecting takes."""
    name = collection_path.relative_to(TESTS).as_posix() if collection_path.is_relative_to(TESTS) else ""
    whole = tuple(entry for entry in LONG if "::" not in entry)
    is_long = bool(name) and name.startswith(whole) and not any(test.startswith(name) for test in KEPT)
    return True if config.getoption("--fast") and is_long else None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take long, or say which belong together."""
    names = {item: f"{item.path.relative_to(TESTS).as_posix()}::{item.name}" for item in items}
    if config.getoption("--fast"):
        long = [item for item in items if names[item].startswith(LONG) and not names[item].startswith(KEPT)]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        for name in TOGETHER:
            if names[item].startswith(name):
                item.add_marker(pytest.mark.xdist_group(name))
