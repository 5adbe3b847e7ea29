"""What the nightly jobs share: shards, the record of a run, and plans."""
