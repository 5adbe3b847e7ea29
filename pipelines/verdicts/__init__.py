"""What numbers mean, in plain words: for the terminal and the report alike. Nothing here loads a model."""
