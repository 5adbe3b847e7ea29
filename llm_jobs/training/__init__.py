"""Training a plug through the frozen LLM: examples, the loop, what is kept between epochs, checkpoints."""
