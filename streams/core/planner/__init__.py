"""The planner: which slots to move before a cluster is overloaded, and when to bring them home.

A pure function of its inputs: no clock, no I/O, no randomness, ties broken by name and number.
"""

from __future__ import annotations

from streams.core.planner.board import Board
from streams.core.planner.inputs import ClusterInput, Plan, PlanInput, PlannerSettings, measured_only
from streams.core.planner.moves import empty, give_back
from streams.core.planner.outcome import outcome
from streams.core.planner.shed import shed

__all__ = ["ClusterInput", "Plan", "PlanInput", "PlannerSettings", "measured_only", "plan"]


def plan(inputs: PlanInput, settings: PlannerSettings) -> Plan:
    """Returns the moves of one round, or why there are none.

    1. Empty clusters that leave: their load must be in place before limits are compared.
    2. Shed from clusters that are over a limit anywhere in the window.
    3. Give back what is away from home, with the room and the budget that shedding left.
    4. Say why.
    """
    board = Board(inputs, settings)
    listed = [cluster.name for cluster in inputs.clusters]
    demand = {name: board.demand[board.row[name]].copy() for name in listed}
    before = board.scores()
    stuck = [*empty(board), *shed(board)]
    give_back(board)
    skip, detail = outcome(board, stuck, before)
    return Plan(board.moves, skip, detail, stuck, before, board.scores(), demand)
