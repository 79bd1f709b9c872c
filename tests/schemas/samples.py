"""One good record of every kind, as JSON objects: topic name -> records."""

from __future__ import annotations

from typing import Any

MOVE = {"shard": 3, "source": "c1", "target": "c2", "slots": [[0, 64]], "load_cps": 12.5, "reason": "event"}
RANGE = {"partition": 0, "from_offset": 10, "to_offset": 40}
CLUSTER_VIEW = {
    "name": "c1", "state": "active", "known": True, "capacity_cps": 100.0, "load_cps": 40.0,
    "forecast_cps": 50.0, "backlog": 0.0, "score_before": 0.5, "score_after": 0.5,
}  # fmt: skip

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "load": [
        {
            "schema": 1, "kind": "report", "router": "r1", "window_from": 10.0, "window_to": 15.0, "epoch": 1,
            "version": 2, "series": ["update"], "clusters": {"c1": [3, 0]}, "hot_slots": [[17, 3]],
            "partitions": [RANGE | {"requests": 3, "bytes": 900, "lag": 0,
                                    "forwarded": {"series": [0], "shard": [5], "count": [3]}}],
        },
        {
            "kind": "history", "router": "r1", "step": 58, "step_s": 30.0, "ranges": [RANGE],
            "series": ["update"], "arrivals": {"series": [0], "shard": [5], "count": [3]},
        },
    ],
    "metrics": [
        {"schema": 1, "cluster": "c1", "instance": "host-1", "at": 100.0, "interval_s": 10.0},
        {"cluster": "c1", "instance": "host-1", "at": 100.0, "interval_s": 10.0, "cpu": 0.5, "memory": 0.25,
         "queue_depth": 12, "throughput_rps": 80.5, "latency_s": 0.2, "latency_estimated": True,
         "capacity_cps": 100.0},
    ],
    "events": [
        {"id": "e1", "kind": "campaign", "start": 100.0, "end": 200.0, "types": ["update"], "uplift": 3.0},
        {"id": "e2", "kind": "campaign", "start": 100.0, "end": 200.0, "requests_per_s": 50.0,
         "keys": [{"type": "update", "values": ["t", 7, True]}], "note": "mailing"},
        {"id": "e3", "kind": "upkeep", "start": 100.0, "end": 200.0, "cluster": "c1", "capacity_factor": 0.7},
    ],
    "commands": [
        {"kind": "cluster-add", "id": "a1", "at": 1.0, "cluster": "c1", "topic": "requests.c1", "group": "c1",
         "capacity_cps": 100.0},
        {"kind": "mode", "id": "a2", "at": 1.0, "by": "ann", "mode": "auto"},
        {"kind": "freeze", "id": "a3", "at": 1.0, "reason": "release"},
        {"kind": "resume", "id": "a4", "at": 1.0},
        {"kind": "cluster-state", "id": "a5", "at": 1.0, "cluster": "c1", "state": "removed"},
        {"kind": "rescue", "id": "a6", "at": 1.0, "cluster": "c1"},
        {"kind": "rehome", "id": "a8", "at": 1.0, "homes": [[17, "c3"]]},
        {"kind": "accept-rules", "id": "a7", "at": 1.0, "rules_hash": "ab12", "shards": 256},
    ],
    "clusters": [
        {"name": "c1", "topic": "requests.c1", "group": "c1", "capacity_cps": 100.0, "partitions": 12,
         "state": "draining"},
        {"name": "c2", "topic": "requests.c2", "group": "c2", "capacity_cps": 100.0, "partitions": 12,
         "state": "down", "rescues": 1},
    ],
    "mapping": [
        {"kind": "shard", "shard": 17, "version": 1042, "epoch": 7, "home": "c3",
         "segments": [[0, 64, "c5"], [64, 256, "c3"]], "plan": "7.311", "reason": "predicted-overload",
         "previous": [{"version": 990, "segments": [[0, 256, "c3"]]}]},
        {"kind": "meta", "version": 1042, "epoch": 7, "shards": 256, "rules_hash": "ab12",
         "clusters": {"c3": {"topic": "requests.c3", "group": "c3", "partitions": 12, "state": "active"}}},
    ],
    "decisions": [
        {"kind": "decision", "epoch": 7, "round": 311, "at": 1.0, "mode": "auto", "version": 1042,
         "moves": [MOVE], "clusters": [CLUSTER_VIEW], "events": ["e1"],
         "series": [{"name": "update", "now_rps": 10.0, "forecast_rps": 12.0, "trusted": True}],
         "stuck": [{"cluster": "c1", "reason": "no-room", "short_cps": 3.0}],
         "prediction": {"ahead": 1, "unjudged": 2, "avoided_overload_s": 10.0, "judged": [
             {"plan": "7.300", "shard": 3, "source": "c1", "target": "c2", "load_cps": 9.5,
              "reactive": "later", "lead_s": 110.0}]},
         "offsets": {"load": [[0, 17]]}},
        {"kind": "decision", "epoch": 7, "round": 312, "at": 1.0, "mode": "observe", "version": 1042,
         "skip": "observe-mode"},
        {"kind": "answer", "command": "a1", "at": 1.0, "epoch": 7, "accepted": False, "code": "unknown",
         "text": "no such cluster"},
        {"kind": "decision", "epoch": 7, "round": 313, "at": 1.0, "mode": "auto", "version": 1043,
         "detail": "rescued 7 requests of c1", "command": "a6"},
    ],
    "state": [
        {"kind": "balancer", "epoch": 7, "mode": "auto", "frozen": False, "round": 3,
         "arrived": [[3, "c2", 100.0]], "moved": [[3, 100.0]], "answered": ["a1"],
         "joined": [4], "rehomed": [17], "away": [[3, "c2", 100.0]],
         "offsets": {"load": [[0, 17]]}, "rescue": {"cluster": "c1", "command": "a6"}},
        {"kind": "learned", "step": 3, "part": 0, "parts": 2, "data": "AAAA"},
    ],
}  # fmt: skip
