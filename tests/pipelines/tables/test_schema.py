"""The tables are those of the contract."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.tables.schema import KEYS, TABLES, file_schema
from pipelines.tables.warehouse import Warehouse

CONTRACT = {
    "histories": "user_id item_id kind posted_at text output",
    "history_vectors": "user_id kind item_id posted_at vector encoder_sha256",
    "persona_vectors": (
        "user_id persona vectors counts items item_count first_posted_at last_posted_at items_sha256 encoder_sha256"
        " run_id"
    ),
    "tasks": "task_id user_id kind queued_at input choices reference",
    "outputs": (
        "task_id user_id kind output score finish_reason persona_source persona_ds top_items prompt_tokens"
        " output_tokens plug_sha256 llm_sha256 settings_sha256 run_id"
    ),
    "rejects": "job row_id user_id reason detail run_id",
    "evaluations": "kind arm metric value low high task_count run_id",
    "runs": "run_id job ds started_at ended_at status rows_in rows_out rows_rejected tokens config versions",
}


def test_the_tables_are_those_of_the_contract() -> None:
    assert set(TABLES) - {"deletions"} == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_columns_stand_in_the_order_of_the_contract_before_any_of_ours(name: str) -> None:
    columns = CONTRACT[name].split()
    assert TABLES[name].names[: len(columns)] == columns


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_partitioned_by_a_date_that_is_not_in_its_files(name: str, tmp_path: Path) -> None:
    table = Warehouse(tmp_path).create(name)
    assert table.metadata().partition_columns == ["ds"]
    assert TABLES[name].field("ds").type == pa.date32()
    assert set(TABLES[name].names) - set(file_schema(name).names) == {"ds"}


def test_a_column_has_one_type_and_one_meaning_in_all_tables() -> None:
    seen: dict[str, tuple[pa.DataType, bytes]] = {}
    for schema in TABLES.values():
        for field in schema:
            assert field.metadata[b"doc"]
            assert seen.setdefault(field.name, (field.type, field.metadata[b"doc"])) == (
                field.type,
                field.metadata[b"doc"],
            )


def test_keys_are_columns_that_are_never_null() -> None:
    for name, keys in KEYS.items():
        assert not any(TABLES[name].field(key).nullable for key in keys)
