"""What the commands do, from Python: `Personalizer` on DataFrames, without a warehouse, and `Warehouse`."""
