"""Every table and column of the warehouse, spelled once.

A table is a line of column names in the order of the contract; `?` marks a column that may be null. A column has
the same type and the same meaning in every table. `ds` is the partition column: it is in the folder name, not in
the Parquet files.
"""

from collections.abc import Mapping

import pyarrow as pa

SCHEMA_VERSION = 5  # raised by one with every new column: files without it are not read


def _list_of(value: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", value, nullable=False))


def _struct_of(**fields: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, value, nullable=False) for name, value in fields.items()])


_TEXT = pa.string()
_TIME = pa.timestamp("us", "UTC")
_INT = pa.int32()
_BIGINT = pa.int64()
_FLOAT = pa.float32()
_VECTOR = _list_of(_FLOAT)
_COMPACT = _list_of(pa.int8())

_COLUMNS: Mapping[str, tuple[pa.DataType, str]] = {
    "answers_per_second": (_FLOAT, "answers of the arm alone, on the tasks of its first chunk"),
    "arm": (_TEXT, "own, other, default, none, or the name of a method"),
    "choices": (_list_of(_TEXT), "closed answers, in the order of the prompt; null for free text"),
    "compared_with": (_TEXT, "arm that `difference` is to: own, or for own the best baseline in that metric"),
    "config": (_TEXT, "JSON: the settings of the run"),
    "counts": (_list_of(_INT), "items behind each of `vectors`"),
    "detail": (_TEXT, "what was found there, never the value itself"),
    "difference": (_FLOAT, "value less that of the arm `compared_with`, paired over users"),
    "difference_high": (_FLOAT, "upper end of its 95% interval over users"),
    "difference_low": (_FLOAT, "lower end of its 95% interval over users"),
    "ds": (pa.date32(), "night of the job that wrote the row; of histories and tasks the night of ingestion"),
    "encoder_sha256": (_TEXT, "fingerprint of the encoder: weights and settings"),
    "ended_at": (_TIME, "end of the run"),
    "error": (_TEXT, "the one line of a run that did not end well"),
    "finish_reason": (_TEXT, "eos (an end token or a stop text), length or choice"),
    "first_posted_at": (_TIME, "time of the oldest item"),
    "high": (_FLOAT, "upper end of the 95% interval over users"),
    "input": (_TEXT, "the full prompt"),
    "is_shortened": (pa.bool_(), "the prompt was cut to fit the language model's context"),
    "is_deleted": (pa.bool_(), "the item is gone from this night on; it has no vector"),
    "is_edit": (pa.bool_(), "the row took the place of an earlier one; null is no"),
    "item_count": (_INT, "items behind the row; 0: none is stored any more"),
    "item_id": (_TEXT, "key of an item within user and kind"),
    "item_sha256": (_TEXT, "hash of the item's encoder text, keyed if protected: an equal one needs no new vector"),
    "items": (_list_of(_struct_of(kind=_TEXT, item_id=_TEXT)), "the most typical item of each of `vectors`"),
    "items_sha256": (_TEXT, "sha256 of the keys and hashes of the items behind the row, in their order"),
    "job": (_TEXT, "job that wrote the row"),
    "kind": (_TEXT, "kind of task or of item, for example LaMP_4; in an audit what was attacked"),
    "label": (_TEXT, "what the user chose for the item, of a closed kind; null for free text"),
    "label_counts": (
        _list_of(_list_of(_struct_of(label=_TEXT, count=_INT))),
        "labels of the items behind each of `vectors`, and how many have each",
    ),
    "last_item": (_struct_of(kind=_TEXT, item_id=_TEXT), "the newest of the items behind the row"),
    "last_posted_at": (_TIME, "time of the newest item"),
    "llm_sha256": (_TEXT, "fingerprint of the language model: weights and settings"),
    "low": (_FLOAT, "lower end of the 95% interval over users"),
    "mean_prompt_tokens": (_FLOAT, "mean tokens of the arm's prompts, soft prompt included; 0 without an LLM"),
    "metric": (
        _TEXT,
        "accuracy, f1 (over fixed labels) or f1-occurring, mae, rmse, rouge-1, rouge-L (official) or with -unicode; of"
        " an audit texts-found, token-f1, linked-nights, linked-items, membership-auc",
    ),
    "newest_labels": (_list_of(_TEXT), "labels of the newest items that have one, oldest first, at most 30"),
    "output": (_TEXT, "what the user produced for an item; the answer to a task"),
    "output_tokens": (_INT, "tokens of the answer"),
    "parameters": (_BIGINT, "trained numbers behind one answer"),
    "persona": (_VECTOR, "unit mean of all item vectors"),
    "persona_ds": (pa.date32(), "night of the persona that was used; null for the default persona"),
    "persona_source": (_TEXT, "history, or default where nothing of one was used"),
    "plug_sha256": (_TEXT, "fingerprint of the plug"),
    "posted_at": (_TIME, "time of the item"),
    "prompt_tokens": (_INT, "tokens of the prompt, soft prompt included"),
    "queued_at": (_TIME, "time the task was queued"),
    "reason": (_TEXT, "why the row was refused, in snake_case"),
    "reference": (_TEXT, "the answer the user gave himself"),
    "row_id": (_TEXT, "the refused row: `file name:line`, LaMP question id, or task id"),
    "rows_in": (_BIGINT, "rows read"),
    "rows_out": (_BIGINT, "rows written or found unchanged"),
    "rows_rejected": (_BIGINT, "rows refused: rows_in = rows_out + rows_rejected"),
    "run_id": (_TEXT, "run that wrote the row"),
    "score": (_FLOAT, "mean log-probability of the answer's tokens, nats"),
    "settings_sha256": (_TEXT, "sha256 of the settings that change the answer"),
    "slice": (_TEXT, "all tasks of the kind, or the part of them: pipelines/slices.py; null means all; audit"),
    "source": (_TEXT, "file or table the refused row came from"),
    "started_at": (_TIME, "start of the run"),
    "status": (_TEXT, "done, failed, interrupted or killed"),
    "task_count": (_INT, "tasks behind the metric"),
    "task_id": (_TEXT, "key of a task within its night"),
    "text": (_TEXT, "what the user wrote or reacted to"),
    "tokens": (_BIGINT, "tokens computed by the run"),
    "top_items": (_list_of(_struct_of(kind=_TEXT, item_id=_TEXT, weight=_FLOAT)), "items that weighed most"),
    "train_seconds": (_FLOAT, "time of training, of all adapters together for lora"),
    "user_bytes": (_BIGINT, "bytes kept of a user, mean over the users with tasks"),
    "user_id": (_TEXT, "the user"),
    "value": (_FLOAT, "value of the metric"),
    "vector": (_COMPACT, "unit vector of one item, divided by `vector_scale`; empty where items keep none"),
    "vector_scale": (_FLOAT, "what one step of `vector` is worth, 0 without one; cosines need it not"),
    "vector_scales": (_list_of(_FLOAT), "what one step of each of `vectors` is worth"),
    "vectors": (
        _list_of(_COMPACT),
        "items of the user, oldest first, or means of similar ones, at most max_vectors, each divided by its scale",
    ),
    "versions": (_TEXT, "JSON: versions of pplug, python and the libraries"),
}

_TABLES: Mapping[str, str] = {
    "histories": "user_id item_id kind posted_at text output? is_edit? ds",
    "deletions": "user_id kind item_id ds",
    "history_vectors": (
        "user_id kind item_id posted_at vector encoder_sha256 item_sha256 vector_scale label? is_deleted ds"
    ),
    "persona_vectors": (
        "user_id persona vectors counts items item_count first_posted_at? last_posted_at? items_sha256 encoder_sha256"
        " run_id vector_scales label_counts newest_labels last_item? ds"
    ),
    "tasks": "task_id user_id kind queued_at input choices? reference? ds",
    "outputs": (
        "task_id user_id kind output score finish_reason persona_source persona_ds? top_items? prompt_tokens"
        " output_tokens plug_sha256 llm_sha256 settings_sha256 run_id is_shortened ds"
    ),
    "rejects": "job row_id user_id? reason detail run_id source ds",
    "evaluations": (
        "kind arm metric value low? high? task_count run_id slice? compared_with? difference? difference_low?"
        " difference_high? parameters? train_seconds? user_bytes? mean_prompt_tokens? answers_per_second? ds"
    ),
    "runs": ("run_id job ds started_at ended_at status rows_in rows_out rows_rejected tokens config versions error?"),
}

KEYS: Mapping[str, tuple[str, ...]] = {
    "histories": ("user_id", "kind", "item_id"),
    "deletions": ("user_id", "kind", "item_id"),
    "tasks": ("task_id", "ds"),
}
"""Key of the tables that are filled by upsert."""


MADE = ("is_edit",)  # columns that ingestion makes; no source has them


def _field(spelled: str) -> pa.Field:
    name = spelled.removesuffix("?")
    value, meaning = _COLUMNS[name]
    return pa.field(name, value, nullable=spelled.endswith("?"), metadata={"doc": meaning})


TABLES: Mapping[str, pa.Schema] = {
    name: pa.schema([_field(spelled) for spelled in columns.split()]) for name, columns in _TABLES.items()
}
"""Arrow schema of every table, `ds` included."""


def file_schema(name: str) -> pa.Schema:
    """What the Parquet files of a table hold: all columns but `ds`."""
    return pa.schema([field for field in TABLES[name] if field.name != "ds"])
