"""The rivals of a plug: every other way to personalise the same frozen LLM, on the same tasks, in one table."""
