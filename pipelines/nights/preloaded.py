"""What the process that workers are made from imports quietly: it has no logging of its own that would leave it out."""

from pipelines.library.quiet import quietly

with quietly():
    import apache_beam  # pyright: ignore[reportUnusedImport]  # noqa: F401  for the workers
