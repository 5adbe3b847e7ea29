"""The parts of job 2: a shard's queue, the models that answer it, and its outputs."""
