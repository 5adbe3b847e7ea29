import numpy as np
import pyarrow as pa

from pipelines.answers.queue import histories_of
from pipelines.tables.schema import TABLES


def test_a_persona_of_before_there_was_a_recent_mean_gets_that_of_all_its_items() -> None:
    names = ("vectors", "counts", "recent")
    rows = [
        {"vectors": [[1.0, 0.0], [0.0, 1.0]], "counts": [3, 1], "recent": None},
        {"vectors": [[1.0, 0.0]], "counts": [1], "recent": [0.5, 0.5]},
        {"vectors": None, "counts": None, "recent": None},
    ]
    schema = pa.schema([TABLES["persona_vectors"].field(name).with_nullable(True) for name in names])
    old, new, nobody = histories_of(pa.Table.from_pylist(rows, schema=schema), 2)
    np.testing.assert_allclose(old.recent, [0.75, 0.25])
    np.testing.assert_allclose(new.recent, [0.5, 0.5])
    assert nobody.vectors.shape == (0, 2)
    assert nobody.recent.tolist() == [0.0, 0.0]
