"""What decides: pure functions and values, without clock, I/O, randomness or logging."""
