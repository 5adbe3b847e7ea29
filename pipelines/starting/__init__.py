"""The first steps: which kinds of tasks there are, and a folder to begin in."""
