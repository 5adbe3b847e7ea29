"""What a plug is compared with: every other way to personalise the same frozen LLM, on the same tasks, in one table."""
