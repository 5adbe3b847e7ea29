"""Where bytes lie: a folder or a bucket, under one set of names. Nothing else opens a path of a warehouse."""
