"""The DAG of docs/scheduling.md is parsed by a real Airflow: `make airflow`; this file needs nothing of ours."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scheduling.md"
HAS_AIRFLOW = importlib.util.find_spec("airflow") is not None


@pytest.mark.skipif(not HAS_AIRFLOW, reason="no Airflow here: make airflow")
def test_airflow_runs_the_command_with_the_logical_date(tmp_path: Path) -> None:
    (dag,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.S)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "pplug_nightly.py").write_text(dag, encoding="utf8")
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    check = Path(__file__).parent / "airflow_check.py"
    subprocess.run([sys.executable, str(check), str(tmp_path / "dags")], check=True, env=environment)
