"""What users bring: files of any quality become rows or refusals."""
