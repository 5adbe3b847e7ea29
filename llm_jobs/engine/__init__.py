"""How a frozen LLM is run: its forward pass, its keys and values, and answers of many requests at once."""
