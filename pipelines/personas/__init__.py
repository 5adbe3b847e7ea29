"""The parts of job 1: a shard's items, and the persona of each user."""
