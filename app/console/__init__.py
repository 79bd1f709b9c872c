"""The page that shows what the balancer sees and does; it reads snapshots and decides nothing."""
