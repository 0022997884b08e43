"""`lucid policy`: policies developed, tested, signed, shipped and rolled back like code."""
