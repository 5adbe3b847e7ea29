"""What tests/benchmarks/scale.py is made of: users, stand-ins for the models, steps, and what a step costs."""
