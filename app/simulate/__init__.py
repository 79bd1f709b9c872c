"""What `foreshard simulate` reads and draws; the simulator itself is streams/core/simulation/."""
