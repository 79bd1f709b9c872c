"""Chaos on a real broker: everything is killed while slots move, then an independent judge counts."""
