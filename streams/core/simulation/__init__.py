"""The balancer without Kafka: the production core in a closed loop over simulated clusters."""
