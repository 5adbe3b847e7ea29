"""The nightly jobs, the warehouse they write and the command that runs them."""
