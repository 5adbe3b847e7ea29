"""A store in a bucket: S3, Google Cloud Storage or Azure, and whatever speaks one of their languages.

Credentials and settings are Delta Lake's, which takes the same Rust library: its environment variables (AWS_REGION,
AWS_ENDPOINT_URL, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY ...) or a dict of the same names.
"""

import contextlib
import os
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from embedder.errors import PplugError
from pipelines.store.stored import StoredObject

CLIENT: Final = (
    *("allow_http", "allow_invalid_certificates", "connect_timeout", "http1_only", "http2_only", "pool_idle_timeout"),
    *("pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url", "timeout", "user_agent"),
)
"""Settings that obstore takes apart from those of the store."""

PREFIX: Final = re.compile("(aws|azure|google)_", re.IGNORECASE)

PATIENCE: Final = timedelta(seconds=30)  # how long one request is tried again


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def folder(self) -> None:
        return None

    def put(self, name: str, data: bytes | Path) -> None:
        with self._one_line_errors():
            self._client.put(name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        with self._one_line_errors():
            try:
                self._client.put(name, data, mode="create")
            except AlreadyExistsError:
                return False
            except NotImplementedError as error:
                told = "it cannot put an object only where there is none, which nights rest on"
                raise PplugError(f"{self.uri} cannot be used: {told}: see conditional_put in its options") from error
        return True

    def get(self, name: str) -> bytes | None:
        with self._one_line_errors():
            try:
                return bytes(self._client.get(name).bytes())
            except FileNotFoundError:
                return None

    def list(self, prefix: str = "") -> list[StoredObject]:
        with self._one_line_errors():
            batches = list(self._client.list(prefix.rstrip("/") or None))
        return sorted(StoredObject(found["path"], found["size"]) for batch in batches for found in batch)

    def delete(self, names: Iterable[str]) -> None:
        with self._one_line_errors(), contextlib.suppress(FileNotFoundError):
            if gone := list(names):
                self._client.delete(gone)

    def delete_unfinished(self, prefix: str, part: str = "") -> None:
        """Do nothing: no object has a name before it is whole."""

    def filesystem(self) -> Any:
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(DeltaStorageHandler(self.uri, dict(self.options)))

    def __str__(self) -> str:
        return self.uri

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "options": self.options}  # a worker opens its own connection

    @property
    def connection(self) -> dict[str, Any]:
        """How obstore connects to the store, in its own words."""
        environment = {name: value for name, value in os.environ.items() if PREFIX.match(name)}
        client = {_bare(name): value for name, value in (environment | dict(self.options)).items()}
        client = {name: value for name, value in client.items() if name in CLIENT}
        config = {name: value for name, value in self.options.items() if _bare(name) not in CLIENT}
        return {"config": config, "client_options": client, "retry_config": {"retry_timeout": PATIENCE}}

    @cached_property
    def _client(self) -> Any:
        from obstore.store import from_url

        with self._one_line_errors():
            connect: Any = from_url
            return connect(self.uri, **self.connection)

    @contextlib.contextmanager
    def _one_line_errors(self) -> Generator[None]:
        """Say in one line what the store refused."""
        from obstore.exceptions import BaseError

        try:
            yield
        except PplugError:
            raise
        except (BaseError, OSError, ValueError) as error:
            said = str(error).partition("\n")[0][:300]
            told = "check its name, your credentials and [warehouse.options] in pplug.toml"
            raise PplugError(f"{self.uri} cannot be used ({type(error).__name__}: {said}): {told}") from error


def _bare(name: str) -> str:
    """A setting's name as obstore's client spells it: AWS_ALLOW_HTTP is allow_http."""
    return PREFIX.sub("", name).lower()
