"""The wire contracts: records, topics, errors."""
