"""The machine of one ingest partition, by scripts: what happens, what is sent, in which phase a slot is.

The words and signs of a script are told in tests/simulation/handoff_ticks.py. After every line the judge
of the simulation checks that nothing is dropped, and that no request overtakes another one.
"""

from __future__ import annotations

from tests.simulation.handoff_ticks import play

# ---------------------------------------------------------------------------- the table of phases


def test_an_idle_slot_settles_at_the_mapping_change() -> None:
    """Nothing was ever sent: the next request goes to the new cluster, nothing is held."""
    play("""
        map b 0 ->    | b
        settled -> 2
        send 0  -> 0b | b
    """)


def test_a_slot_whose_cluster_has_drained_settles_at_the_mapping_change() -> None:
    """Its fence is passed already when the mapping moves it."""
    play("""
        send 0  -> 0a | a
        done a  ->    | a
        map b 0 ->    | b
        send 0  -> 0b | b
    """)


def test_a_watched_slot_stays_with_the_old_cluster_until_it_falls_idle() -> None:
    """Watch: requests still go there; once the last of them is committed the slot settles, 0 s held."""
    play("""
        send 0  -> 0a | a
        map b 0 ->    | a>b
        settled -> 1
        +0.2    ->    | a>b
        send 0  -> 0a | a>b
        done a  ->    | b
        settled -> 2
        send 0  -> 0b | b
    """)


def test_a_slot_that_was_not_idle_soon_is_held() -> None:
    """The fence as of the mapping change is not passed within first_wait."""
    play("""
        send 0   -> 0a    | a
        map b 0  ->       | a>b
        +0.4     ->       | a>b
        +0.1     ->       | a:b
        send 0 0 ->       | a:b(2)
        done a   -> 0b 0b | b
        send 0   -> 0b    | b
    """)


def test_a_slot_that_is_always_busy_is_held_after_watch_s() -> None:
    """Its fence as of the mapping change is passed in time, but there is always a newer one."""
    play("""
        send 0   -> 0a | a
        map b 0  ->    | a>b
        take a   ->    | a>b
        commit a ->    | a>b
        send 0   -> 0a | a>b
        hear a   ->    | a>b
        +0.5     ->    | a>b
        +1.4     ->    | a>b
        +0.1     ->    | a:b
        send 0   ->    | a:b(1)
        done a   -> 0b | b
    """)


def test_a_fence_is_passed_only_by_an_offset_beyond_it() -> None:
    """Two records of one transaction: a group that has committed the first has the second before it."""
    play("""
        send 0 0 -> 0a 0a | a
        map b 0  ->       | a>b
        done a 1 ->       | a>b
        +0.5     ->       | a:b
        send 0   ->       | a:b(1)
        done a 1 -> 0b    | b
    """)


def test_what_was_held_goes_first_and_in_order() -> None:
    """Held requests of two slots go out by offset, before anything that is read after them."""
    play(
        """
        send 0 1       -> 0a 1a       | a a
        map b 0 1      ->             | a>b a>b
        +0.5           ->             | a:b a:b
        send 1 0 0 1 2 -> 2a          | a:b(2) a:b(2)
        done a         -> 1b 0b 0b 1b | b b
        send 0 1       -> 0b 1b       | b b
    """,
        slots=(0, 1),
    )


def test_types_without_order_are_never_held_and_touch_no_fence() -> None:
    """They go to the new cluster at once; that they wait there holds up no later move."""
    play("""
        send 0   -> 0a | a
        map b 0  ->    | a>b
        +0.5     ->    | a:b
        free 0   -> 0b | a:b
        send 0   ->    | a:b(1)
        done a   -> 0b | b
        free 0   -> 0b | b
        done b 2 ->    | b
        map c 0  ->    | c
        free 0   -> 0c | c
    """)


def test_only_the_slots_that_the_mapping_moved_are_in_motion() -> None:
    """Another slot of the same shard, and of the same output partition, goes on as before."""
    play(
        """
        send 0 2   -> 0a 2a | a a
        map b 0    ->       | a>b a
        +0.5       ->       | a:b a
        send 2 0 2 -> 2a 2a | a:b(1) a
    """,
        slots=(0, 2),
    )


# ---------------------------------------------------------------------------- changes on the way


def test_a_move_is_cancelled_while_it_is_watched() -> None:
    """a -> b -> a: nothing of it has reached b."""
    play(
        """
        send 0  -> 0a | a
        map b 0 ->    | a>b
        send 0  -> 0a | a>b
        map a 0 ->    | a
        settled -> 3
        send 0  -> 0a | a
    """,
        rule_kept=False,
    )


def test_a_move_is_cancelled_while_it_is_held() -> None:
    """The held requests go back to a at once, in order: the set of the slot is {a}."""
    play(
        """
        send 0   -> 0a    | a
        map b 0  ->       | a>b
        +0.5     ->       | a:b
        send 0 0 ->       | a:b(2)
        map a 0  -> 0a 0a | a
        settled  -> 3
    """,
        rule_kept=False,
    )


def test_a_slot_that_comes_back_waits_for_the_cluster_between() -> None:
    """a -> b -> a, each settled: the way back waits for what b got."""
    play("""
        send 0  -> 0a | a
        done a  ->    | a
        map b 0 ->    | b
        send 0  -> 0b | b
        map a 0 ->    | b>a
        +0.5    ->    | b:a
        send 0  ->    | b:a(1)
        done a  ->    | b:a(1)
        done b  -> 0a | a
    """)


def test_a_slot_that_got_nothing_on_its_way_passes_through() -> None:
    """a -> b -> c: b got nothing of it, so there is nothing to wait for, whatever a's offsets were."""
    play("""
        send 0 0 0 -> 0a 0a 0a | a
        done a     ->          | a
        map b 0    ->          | b
        map c 0    ->          | c
    """)


def test_a_held_slot_changes_its_target() -> None:
    """a -> b -> c while held: what was held goes to c, b never sees anything."""
    play(
        """
        send 0  -> 0a    | a
        map b 0 ->       | a>b
        +0.5    ->       | a:b
        send 0  ->       | a:b(1)
        map c 0 ->       | a:c(1)
        send 0  ->       | a:c(2)
        settled -> 1
        done a  -> 0c 0c | c
        settled -> 3
    """,
        rule_kept=False,
    )


def test_a_slot_goes_to_and_fro_and_elsewhere() -> None:
    """a -> b -> a -> c: only a has something uncommitted, so only a is waited for."""
    play(
        """
        send 0  -> 0a | a
        map b 0 ->    | a>b
        +0.5    ->    | a:b
        send 0  ->    | a:b(1)
        map a 0 -> 0a | a
        map c 0 ->    | a>c
        awaits  -> a
        +0.5    ->    | a:c
        send 0  ->    | a:c(1)
        done b  ->    | a:c(1)
        done a  -> 0c | c
    """,
        rule_kept=False,
    )


def test_a_slot_that_moves_on_before_the_mapping_was_seen_waits_for_its_own_cluster() -> None:
    """Skipped versions count as one change: in motion since the last version seen + 1."""
    play(
        """
        send 0   -> 0a | a
        plan b 0 ->    | a
        plan c 0 ->    | a
        plan b 0 ->    | a
        look     ->    | a>b
        settled  -> 1
        done a   ->    | b
        settled  -> 4
    """,
        rule_kept=False,
    )


def test_the_settled_version_is_that_before_the_oldest_motion() -> None:
    """Slot 1 moves later and settles first; the version before slot 0 moved stays the settled one."""
    play(
        """
        send 0 1 -> 0a 1a | a a a
        map b 0  ->       | a>b a a
        settled  -> 1
        map c 1  ->       | a>b a>c a
        settled  -> 1
        map c 3  ->       | a>b a>c c
        settled  -> 1
        done a   ->       | b c c
        settled  -> 4
    """,
        slots=(0, 1, 3),
        rule_kept=False,
    )


# ---------------------------------------------------------------------------- fences


def test_a_fence_counts_only_once_its_transaction_is_committed() -> None:
    """Requests under way hold the slot up, although the group has committed all that is visible."""
    play("""
        send 0  -> 0a | a
        done a  ->    | a
        begin 0 -> 0a | a
        map b 0 ->    | a>b
        hear a  ->    | a>b
        ok      ->    | a>b
        done a  ->    | b
    """)


def test_a_fence_of_the_mapping_change_that_was_pending_is_the_real_one_later() -> None:
    """The transaction commits after the mapping has changed: then first_wait has something to wait for."""
    play("""
        begin 0  -> 0a | a
        plan b 0 ->    | a
        look     ->    | a>b
        +0.4     ->    | a>b
        send 0   -> 0a | a>b
        done a 1 ->    | a>b
        +0.1     ->    | a>b
        +0.1     ->    | a>b
    """)


def test_what_an_aborted_transaction_wrote_is_sent_again() -> None:
    """Its records leave no fence that would hold the slot up: the group never commits past the last one."""
    play("""
        send 0   -> 0a | a
        done a   ->    | a
        begin 0  -> 0a | a
        abort    ->    | -
        again    ->    | a
        plan b 0 ->    | a
        look     -> 0a | a>b
        tail     ->    | a>b
        done b   ->    | a>b
    """)


def test_what_was_released_counts_at_its_new_cluster_from_then_on() -> None:
    """The mapping moves the slot on while what was released is under way: it waits for b."""
    play(
        """
        send 0   -> 0a | a
        map b 0  ->    | a>b
        +0.5     ->    | a:b
        begin 0  ->    | a:b(1)
        take a   ->    | a:b(1)
        commit a ->    | a:b(1)
        hear a   -> 0b | b
        map c 0  ->    | b>c
        +0.5     ->    | b:c
        begin 0  ->    | b:c(1)
        done b   -> 0c | c
    """,
        rule_kept=False,
    )


def test_what_is_released_in_parts_keeps_its_order() -> None:
    """One released request per transaction: nothing else is read or advances until all are sent."""
    play(
        """
        most 1     ->    | a
        send 0     -> 0a | a
        map b 0    ->    | a>b
        +0.5       ->    | a:b
        send 0 0 0 ->    | a:b(3)
        plan c 0   ->    | a:b(3)
        done a     -> 0b | b
        note       -> 2 settled 2 newest 2 position 4 0 from 2
        send 0     -> 0b | b
        note       -> 3 settled 2 newest 2 position 4 0 from 3
        look       -> 0b | b
        look       -> 0b | b>c
        done b     ->    | c
        look       ->    | c
        look       ->    | c
    """,
        rule_kept=False,
    )


# ---------------------------------------------------------------------------- the safety valve


def test_what_was_held_too_long_goes_back_to_the_only_candidate() -> None:
    """After hold_timeout the held requests go to a, in order; later it is tried again."""
    play(
        """
        send 0   -> 0a    | a
        map b 0  ->       | a>b
        +0.5     ->       | a:b
        send 0 0 ->       | a:b(2)
        +2.9     ->       | a:b(2)
        +0.1     -> 0a 0a | a>b
        settled  -> 1
        send 0   -> 0a    | a>b
        +3.0     ->       | a:b
        send 0   ->       | a:b(1)
        done a   -> 0b    | b
    """,
        hold_timeout_s=3.0,
    )


def test_nothing_goes_back_while_several_candidates_remain() -> None:
    """After a take-over a and b may both have something: what is held stays held."""
    play(
        """
        send 0   -> 0a    | a
        map b 0  ->       | a>b
        +0.5     ->       | a:b
        send 0 0 ->       | a:b(2)
        map c 0  ->       | a:c(2)
        die      ->       | c:c
        note     -> 1 settled 1 newest 3 position 3 0 from 1
        +3.0     ->       | c:c(2)
        +3.0     ->       | c:c(2)
        done a   ->       | c:c(2)
        tail     -> 0c 0c | c
    """,
        hold_timeout_s=3.0,
        rule_kept=False,
    )


# ---------------------------------------------------------------------------- dead clusters


def test_slots_leave_a_dead_cluster_after_its_grace_and_are_counted() -> None:
    """Available: what is sent from then on is unproven, until the dead cluster's group gets on."""
    play(
        """
        send 0  -> 0a  | a
        down a  ->     | a
        map b 0 ->     | a>b
        +0.5    ->     | a:b
        send 0  ->     | a:b(1)
        +0.4    ->     | a:b(1)
        +0.1    -> 0b? | b
        settled -> 3
        send 0  -> 0b? | b
        awaits  -> a
        done a  ->     | b
        up a    ->     | b
        done a  ->     | b
        send 0  -> 0b  | b
    """,
        dead_grace_s=1.0,
    )


def test_slots_of_a_dead_cluster_wait_for_ever_where_order_is_strict() -> None:
    """Strict: nothing is unproven; what is held goes once the cluster has come back and drained."""
    play(
        """
        send 0  -> 0a | a
        down a  ->    | a
        map b 0 ->    | a>b
        +0.5    ->    | a:b
        send 0  ->    | a:b(1)
        +1.0    ->    | a:b(1)
        +50     ->    | a:b(1)
        settled -> 2
        up a    ->    | a:b(1)
        done a  -> 0b | b
    """,
        dead_grace_s=1.0,
        on_dead="strict",
    )


def test_a_slot_that_left_a_dead_cluster_can_come_back_to_it() -> None:
    """b has drained: the set is {a} again, and what goes to a is in order."""
    play(
        """
        send 0  -> 0a  | a
        down a  ->     | a
        map b 0 ->     | b
        send 0  -> 0b? | b
        up a    ->     | b
        map a 0 ->     | b>a
        +0.5    ->     | b:a
        send 0  ->     | b:a(1)
        done b  -> 0a  | a
        done a  ->     | a
    """,
        dead_grace_s=0.0,
    )


def test_a_slot_that_left_a_dead_cluster_moves_on_and_stays_unproven() -> None:
    """a is dead, b has drained: c gets the next ones, counted as unproven because of a."""
    play(
        """
        send 0  -> 0a  | a
        down a  ->     | a
        map b 0 ->     | b
        send 0  -> 0b? | b
        map c 0 ->     | b>c
        +0.5    ->     | b:c
        send 0  ->     | b:c(1)
        done b  -> 0c? | c
        awaits  -> a
    """,
        dead_grace_s=0.0,
    )


def test_a_cluster_that_is_up_again_must_drain_before_the_slot_moves_on() -> None:
    """It was left as dead; now that it lives it is waited for, like any other."""
    play(
        """
        send 0  -> 0a  | a
        down a  ->     | a
        map b 0 ->     | b
        send 0  -> 0b? | b
        done b  ->     | b
        up a    ->     | b
        map c 0 ->     | b>c
        +0.5    ->     | b>c
        send 0  -> 0b? | b>c
        done a  ->     | b>c
        done b  ->     | c
    """,
        dead_grace_s=0.0,
    )


def test_a_dead_cluster_is_not_left_with_a_transaction_under_way() -> None:
    """Its record's place is not known yet: only with it can the claim that remains ever be settled."""
    play(
        """
        down a  ->    | a
        begin 0 -> 0a | a
        map b 0 ->    | a>b
        +0.1    ->    | b
        awaits  -> a
        up a    ->    | b
        done a  ->    | b
        awaits  -> none
    """,
        dead_grace_s=0.0,
    )


def test_what_a_dead_cluster_had_counts_again_when_the_slot_is_back() -> None:
    """It left a fence behind; back at a with nothing new sent, the slot still waits for that one."""
    play(
        """
        send 0  -> 0a | a
        down a  ->    | a
        map b 0 ->    | b
        up a    ->    | b
        map a 0 ->    | a
        map c 0 ->    | a>c
        +0.5    ->    | a:c
        send 0  ->    | a:c(1)
        done a  -> 0c | c
    """,
        dead_grace_s=0.0,
    )


def test_a_dead_cluster_that_has_drained_proves_the_order() -> None:
    """Down or not: nothing is unproven where its group has committed everything."""
    play(
        """
        send 0  -> 0a | a
        done a  ->    | a
        down a  ->    | a
        map b 0 ->    | b
        send 0  -> 0b | b
    """,
        dead_grace_s=0.0,
    )


# ---------------------------------------------------------------------------- take-over


def test_a_successor_reads_what_was_held_again() -> None:
    """Below the note's position only requests of slots that are listed, from their `from` on."""
    play(
        """
        send 0 1       -> 0a 1a    | a a
        map b 0        ->          | a>b a
        +0.5           ->          | a:b a
        send 1 0 1 0 1 -> 1a 1a 1a | a:b(2) a
        note           -> 3 settled 1 newest 2 position 7 0 from 2
        die            ->          | b:b a
        send 1         -> 1a       | b:b(2) a
        note           -> 3 settled 1 newest 2 position 8 0 from 3
        done a         ->          | b:b(2) a
        tail           -> 0b 0b    | b a
        note           -> 8 settled 2 newest 2 position 8
    """,
        slots=(0, 1),
    )


def test_what_was_forwarded_before_the_hold_is_not_sent_again() -> None:
    """Slot 0 holds offset 1; slot 1 was forwarded at 2, entered hold, and holds 4: two `from`."""
    play(
        """
        send 0 1   -> 0a 1a    | a a
        map b 0    ->          | a>b a
        +0.5       ->          | a:b a
        send 0 1 2 -> 1a 2a    | a:b(1) a
        map b 1    ->          | a:b(1) a>b
        +0.5       ->          | a:b(1) a:b
        send 1 0 2 -> 2a       | a:b(2) a:b(1)
        note       -> 2 settled 1 newest 3 position 8 0 from 2, 1 from 5
        die        ->          | b:b b:b
        note       -> 2 settled 1 newest 3 position 8 0 from 2, 1 from 5
        done a     ->          | b:b(2) b:b(1)
        tail       -> 0b 1b 0b | b b
    """,
        slots=(0, 1),
        rule_kept=False,
    )


def test_dead_letters_and_types_without_order_are_not_repeated_by_a_successor() -> None:
    """Both were decided for good, whatever is held before them."""
    play("""
        send 0    -> 0a | a
        map b 0   ->    | a>b
        +0.5      ->    | a:b
        send 0    ->    | a:b(1)
        unknown 0 -> 0+ | a:b(1)
        free 0    -> 0b | a:b(1)
        note      -> 1 settled 1 newest 2 position 4 0 from 1
        die       ->    | b:b
        unknown 0 -> 0+ | b:b(1)
        done a    ->    | b:b(1)
        tail      -> 0b | b
    """)


def test_a_second_successor_in_the_middle_of_a_replay_repeats_nothing() -> None:
    """It re-reads one request at a time, and dies after two of four: the note moves with it."""
    play(
        """
        send 0 1     -> 0a 1a | a a
        map b 0 1    ->       | a>b a>b
        +0.5         ->       | a:b a:b
        send 0 1 0 1 ->       | a:b(2) a:b(2)
        note         -> 2 settled 1 newest 2 position 6 0 1 from 2
        read 1       ->       | a:b(2) a:b(2)
        die          ->       | b:b b:b
        send         ->       | b:b(1) b:b
        note         -> 2 settled 1 newest 2 position 6 0 from 2, 1 from 3
        done a       ->       | b:b(1) b:b(1)
        tail         -> 0b 1b | b b
        note         -> 4 settled 2 newest 2 position 6 0 1 from 4
        die          ->       | b b
        send         -> 0b    | b b
        send         -> 1b    | b b
        send         ->       | b b
        note         -> 6 settled 2 newest 2 position 6
    """,
        slots=(0, 1),
    )


def test_a_hold_that_begins_in_the_middle_of_a_replay_counts_from_its_end() -> None:
    """Slot 1 was forwarded at 3 and 4, before it was held: the next successor must skip that as well."""
    play(
        """
        send 0 1   -> 0a 1a | a a
        map b 0    ->       | a>b a
        +0.5       ->       | a:b a
        send 0 1 1 -> 1a 1a | a:b(1) a
        note       -> 2 settled 1 newest 2 position 5 0 from 2
        read 0     ->       | a:b(1) a
        die        ->       | b:b a
        map b 1    ->       | b:b a>b
        +0.5       ->       | b:b a:b
        read 9     ->       | b:b a:b
        send 1     ->       | b:b(1) a:b(1)
        note       -> 2 settled 1 newest 3 position 6 0 from 2, 1 from 5
        die        ->       | b:b b:b
        done a     ->       | b:b(1) b:b(1)
        tail       -> 0b 1b | b b
    """,
        slots=(0, 1),
        rule_kept=False,
    )


def test_what_is_released_and_not_yet_sent_is_still_held_to_a_successor() -> None:
    """Two of three released requests are out when the router dies; the third goes out once."""
    play(
        """
        most 1     ->    | a
        send 0     -> 0a | a
        map b 0    ->    | a>b
        +0.5       ->    | a:b
        send 0 0 0 ->    | a:b(3)
        done a     -> 0b | b
        note       -> 2 settled 2 newest 2 position 4 0 from 2
        send       -> 0b | b
        note       -> 3 settled 2 newest 2 position 4 0 from 3
        die        ->    | b
        send       -> 0b | b
        done b     ->    | b
    """,
    )


def test_what_is_released_is_listed_with_its_own_from() -> None:
    """Slot 1 was forwarded at 4 and entered hold at 5: that stays so while slot 0 has older ones to send."""
    play(
        """
        most 1     ->       | a a
        send 0 1   -> 0a 1a | a a
        map b 0    ->       | a>b a
        +0.5       ->       | a:b a
        send 0 0 1 -> 1a    | a:b(2) a
        map b 1    ->       | a:b(2) a>b
        +0.5       ->       | a:b(2) a:b
        send 1     ->       | a:b(2) a:b(1)
        done a     -> 0b    | b b
        note       -> 3 settled 3 newest 3 position 6 0 from 3, 1 from 5
        die        ->       | b b
        send       -> 0b 1b | b b
        send       ->       | b b
        done b     ->       | b b
    """,
        slots=(0, 1),
        rule_kept=False,
    )


def test_an_aborted_release_is_released_again() -> None:
    """Everything is built anew from the committed offset, as by a successor."""
    play("""
        send 0   -> 0a       | a
        map b 0  ->          | a>b
        +0.5     ->          | a:b
        send 0 0 ->          | a:b(2)
        take a   ->          | a:b(2)
        commit a ->          | a:b(2)
        begin 0  ->          | a:b(3)
        hear a   -> 0b 0b 0b | b
        abort    ->          | b
        again    ->          | b
        tail     ->          | b
    """)


def test_a_successor_waits_for_a_pending_offset() -> None:
    """The predecessor's transaction is open: nobody can tell yet what it has decided."""
    play("""
        begin 0         -> 0a    | a
        die             ->       | -
        send 0          ->       | -
        ended committed ->       | a
        send 0          -> 0a 0a | a
    """)


def test_a_successor_waits_for_the_newest_mapping_that_was_used() -> None:
    """Its own lags: by that it would send to a what its predecessor has sent to b."""
    made = play("""
        map b 0 ->    | b
        send 0  -> 0b | b
        note    -> 1 settled 2 newest 2 position 1
    """)
    router, world = made.router, made.world
    router.rebuild()
    router.seen, router.routes = 0, None
    for _ in range(5):
        router.turn()
    assert (world.snapshots[0].version, router.handoffs.active) == (1, {})
    made.play("""
        again  ->    | b
        send 0 -> 0b | b
    """)


def test_without_a_note_every_slot_with_a_history_is_in_motion() -> None:
    """A plain commit erased it: settled 0, and nothing is skipped."""
    play(
        """
        send 0 1 -> 0a 1a | a a
        map b 0  ->       | a>b a
        done a   ->       | b a
        send 0   -> 0b    | b a
        note     -> 3 settled 2 newest 2 position 3
        erase    ->       | b a
        die      ->       | b:b a
        note     -> 3 settled 0 newest 2 position 3
        send 0   ->       | b:b(1) a
        done a   ->       | b:b(1) a
        done b   ->       | b:b(1) a
        tail     -> 0b    | b a
    """,
        slots=(0, 1),
    )


def test_a_slot_that_was_settled_at_the_take_over_waits_for_what_was_written_before() -> None:
    """The successor knows no fences: it takes the ends of all topics for them."""
    play("""
        send 0  -> 0a | a
        die     ->    | a
        map b 0 ->    | a>b
        +0.5    ->    | a:b
        send 0  ->    | a:b(1)
        done a  ->    | a:b(1)
        tail    -> 0b | b
    """)


def test_an_idle_cluster_whose_offset_stays_below_its_end_is_seen_to_be_empty() -> None:
    """Markers and an aborted record lie behind the last record that its group has committed."""
    play("""
        send 0    -> 0a | a
        done a    ->    | a
        aborted a ->    | a
        die       ->    | a
        map b 0   ->    | a>b
        hear a    ->    | a>b
        tail      ->    | b
    """)


def test_an_open_transaction_below_the_end_is_waited_for() -> None:
    """The tail cannot be told before it ends; asked again, it can."""
    play(
        """
        send 1        -> 1a | a a
        done a        ->    | a a
        begin 0       -> 0a | a a
        plan b 0 1    ->    | a a
        die           ->    | -
        tail          ->    | -
        ended aborted ->    | b:b b:b
        tail          -> 0b | b b
    """,
        slots=(0, 1),
    )


# ---------------------------------------------------------------------------- groups


def test_a_group_that_never_committed_is_waited_for() -> None:
    """No committed offset is not passed; where nothing was written there is nothing to wait for."""
    play("""
        send 0  -> 0a | a
        take a  ->    | a
        map b 0 ->    | a>b
        hear a  ->    | a>b
        +0.5    ->    | a:b
        send 0  ->    | a:b(1)
        hear a  ->    | a:b(1)
        done a  -> 0b | b
    """)


def test_an_expired_offset_counts_again_once_retention_has_taken_what_it_covered() -> None:
    """The log start is past the fence."""
    play("""
        send 0   -> 0a | a
        done a   ->    | a
        expire a ->    | a
        hear a   ->    | a
        map b 0  ->    | a>b
        +0.5     ->    | a:b
        send 0   ->    | a:b(1)
        retain a -> 0b | b
    """)


def test_a_group_that_is_set_back_is_waited_for_again() -> None:
    """The latest committed offset counts, not the highest."""
    play("""
        send 0 0 -> 0a 0a | a
        done a   ->       | a
        back a 1 ->       | a
        map b 0  ->       | a>b
        +0.5     ->       | a:b
        send 0   ->       | a:b(1)
        done a   -> 0b    | b
    """)


def test_a_cluster_that_joined_later_has_fences_of_its_own() -> None:
    """d was unknown at the take-over; it has three output partitions where the others have two."""
    play("""
        map d 0 ->    | d
        send 0  -> 0d | d
        map a 0 ->    | d>a
        +0.5    ->    | d:a
        send 0  ->    | d:a(1)
        done d  -> 0a | a
    """)


# ---------------------------------------------------------------------------- limits


def test_a_partition_that_can_hold_no_more_is_cut_and_read_again() -> None:
    """With room for two, the third and all after it wait unread, of whatever slot; nothing is dropped."""
    play(
        """
        send 0 1         -> 0a 1a    | a a
        map b 0          ->          | a>b a
        +0.5             ->          | a:b a
        send 1 0 0 1 0 1 -> 1a 1a    | a:b(2) a
        note             -> 3 settled 1 newest 2 position 6 0 from 2
        send 1           ->          | a:b(2) a
        done a           -> 0b 0b    | b a
        note             -> 6 settled 2 newest 2 position 6
        look             -> 0b 1a 1a | b a
    """,
        slots=(0, 1),
        held_requests=2,
    )


def test_nothing_is_dead_lettered_beyond_a_cut() -> None:
    """What lies behind the request that could not be held is not decided about."""
    play(
        """
        send 0    -> 0a    | a
        map b 0   ->       | a>b
        +0.5      ->       | a:b
        read 0    ->       | a:b
        send 0    ->       | a:b
        unknown 0 ->       | a:b
        read 9    ->       | a:b
        look      ->       | a:b
        done a    -> 0b 0+ | b
        look      ->       | b
    """,
        held_requests=0,
    )


# ---------------------------------------------------------------------------- poison


def test_a_refused_request_of_a_held_slot_waits_and_is_dead_lettered_once() -> None:
    """Were it dead-lettered before its slot moves, a successor would do it again: the note cannot say it."""
    play(
        """
        send 0 1 -> 0a 1a    | a a
        map b 1  ->          | a a>b
        +0.5     ->          | a a:b
        send 1   ->          | a a:b(1)
        poison 0 -> 0a       | -
        plan b 0 ->          | -
        look     ->          | -
        again    ->          | b:b b:b
        send 0   ->          | b:b b:b(1)
        note     -> 2 settled 1 newest 3 position 3 1 from 2
        die      ->          | b:b b:b
        send     ->          | b:b(2) b:b(1)
        done a   ->          | b:b(2) b:b(1)
        tail     -> 1b 0b 0b | -
        again    ->          | b:b b:b
        tail     -> 1b 0b 0b | -
        again    ->          | b:b b:b
        tail     -> 1b       | b b
        send     -> 0b       | -
        send     ->          | -
        again    ->          | b b
        tail     -> 0+       | b b
        send     -> 0b       | b b
        send     ->          | b b
        note     -> 5 settled 3 newest 3 position 5
    """,
        slots=(0, 1),
        rule_kept=False,
    )
