"""What stands beside a plug so that a Personalizer can be loaded again: personalizer.json.

A plug that `pplug train` made has no such file, and is loaded all the same, with the models that are named.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from embedder.errors import PplugError
from pipelines.answers.models import GenerateConfig

FILE: Final = "personalizer.json"
FORMAT: Final = 1
MODELS: Final = ("encoder", "llm", "dtype", "llm_dtype")


@dataclass(frozen=True)
class Saved:
    """What a Personalizer knows besides its plug."""

    models: Mapping[str, str]
    """encoder, llm, dtype and llm_dtype, as they were decided when the plug was trained."""
    max_vectors: int  # most vectors that stand for one user
    kinds: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Kinds that are not built in, as the tables [kinds.NAME] of pplug.toml."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """What frames call columns of ours."""
    format: int = FORMAT

    @property
    def config(self) -> GenerateConfig:
        """The models, for the functions of the jobs."""
        named: Any = dict(self.models)
        return GenerateConfig(**named)

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf8")

    @classmethod
    def read(cls, folder: Path, otherwise: "Saved") -> Self:
        """The file beside a plug; where there is none, what is given.

        Raises:
            PplugError: if it is damaged, or of another version of pplug.
        """
        path = folder / FILE
        if not path.is_file():
            return cls(**vars(otherwise))
        try:
            found = cls(**json.loads(path.read_text(encoding="utf8")))
        except (OSError, TypeError, ValueError) as error:
            raise PplugError(f"{path} is damaged ({error}): save the Personalizer again") from error
        if found.format != FORMAT:
            raise PplugError(f"{path} has format {found.format}, this pplug reads {FORMAT}: save it again")
        return found
