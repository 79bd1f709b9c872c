"""The demo: real broker, real processes, real load, and a report counted from what backends consumed."""
