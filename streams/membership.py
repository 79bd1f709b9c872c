"""How a member leaves its consumer group, so that the others need not wait until its session ends."""

from __future__ import annotations

from confluent_kafka import Consumer


def leave_group(consumer: Consumer, *, static: bool) -> None:
    """Says goodbye to the group and closes the consumer; a static member stays one, on purpose.

    librdkafka (2.16.0) closes a cooperative member that has no partition without a goodbye. The next
    rebalance waits for such a ghost until its session ends; whoever joins meanwhile is not answered,
    so he cannot say goodbye in time either. To unsubscribe is to say it.
    """
    if not static and not consumer.assignment():
        consumer.unsubscribe()
    consumer.close()
