"""Parse the DAGs of a folder with the Airflow that is installed, and see which night their command is for.

A process of its own: Airflow writes settings and a database into AIRFLOW_HOME when it is imported.
"""

import sys
from datetime import UTC, datetime

from airflow.dag_processing.dagbag import DagBag
from airflow.timetables.base import DagRunInfo, TimeRestriction

bag = DagBag(sys.argv[1])
assert bag.import_errors == {}, bag.import_errors
dag = bag.dags["pplug_nightly"]
(task,) = dag.tasks

restriction = TimeRestriction(dag.start_date, None, catchup=True)
run = dag.timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
assert isinstance(run, DagRunInfo)
assert run.run_after == datetime(2026, 11, 2, 2, tzinfo=UTC), "in the night after the day it is for"
task.render_template_fields({"ds": f"{run.logical_date:%Y-%m-%d}"})
assert task.bash_command == "pplug nightly --ds 2026-11-01 --plug plugs/news"
