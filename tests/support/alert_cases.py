# SPDX-License-Identifier: Apache-2.0
"""For each alert the series with which it fires, and with which it is quiet, as promtool writes them: one a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

Series = Mapping[str, str]
NONE: Final[Series] = {"up": "1x60"}


class Case(NamedTuple):
    """Series at which an alert fires after half an hour, and at which it does not."""

    fires: Series
    quiet: Series


def _both(series: str, fires: str, quiet: str) -> Case:
    return Case({series: fires}, {series: quiet})


_PLANNER, _NODE = '{pod="pointsman-planner-0"}', '{node="n1"}'
_BEHIND: Final = 'pointsman_planner_node_behind_seconds{node="n1", state="nacked"}'
_STATE: Final = "pointsman_planner_connected_nodes"
_BUCKET: Final = 'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4", le="%s"}'
_CONTACT: Final = 'pointsman_watcher_last_contact_timestamp_seconds{resource="services"}'
_REFUSED: Final = 'pointsman_planner_calls_refused_total{pod="pointsman-planner-0", reason="%s"}'

CASES: Final[Mapping[str, Case]] = {
    "PointsmanNodeBehind": _both(_BEHIND, "0+60x60", "0 60 120 240 0x60"),
    "PointsmanManyNodesBehind": Case(
        {f'{_STATE}{{state="synced"}}': "90x60", f'{_STATE}{{state="stale"}}': "10x60"},
        {f'{_STATE}{{state="synced"}}': "99x60", f'{_STATE}{{state="stale"}}': "1x60"},
    ),
    "PointsmanNodesDisconnected": Case(
        {"pointsman_planner_nodes": "10x60", "pointsman_planner_streams": "9x60"},
        {
            "pointsman_planner_nodes": "10x60",
            'pointsman_planner_streams{pod="a"}': "4x60",
            'pointsman_planner_streams{pod="b"}': "6x60",
        },
    ),
    "PointsmanServicesRefused": _both(
        'pointsman_enforcer_failed_services{node="n1", stage="apply"}', "2x60", "0x10 2x2 0x60"
    ),
    "PointsmanNetworkProgrammingSlow": Case(
        {_BUCKET % "5": "0+90x60", _BUCKET % "30": "0+100x60", _BUCKET % "+Inf": "0+100x60"},
        {_BUCKET % "5": "0+100x60", _BUCKET % "30": "0+100x60", _BUCKET % "+Inf": "0+100x60"},
    ),
    "PointsmanWatcherAway": Case(NONE, {"pointsman_watcher_in_sync": "1x60"}),
    "PointsmanApiServerSilent": _both(_CONTACT, "0+60x10 600x60", "0+60x60"),
    "PointsmanObjectsRejected": _both(
        'pointsman_watcher_rejected_objects_total{resource="services"}', "0x25 1x60", "3x60"
    ),
    "PointsmanPlannersAway": Case(NONE, {"pointsman_planner_streams": "0x60"}),
    "PointsmanPlannerWithoutFeed": _both(f"pointsman_planner_feed_connected{_PLANNER}", "0x60", "1x20 0x3 1x60"),
    "PointsmanMassDeleteHeld": _both(f"pointsman_planner_mass_delete_holding{_PLANNER}", "1x60", "0x60"),
    "PointsmanOlderStateHeld": _both(f"pointsman_planner_feed_older_holding{_PLANNER}", "1x60", "0x28 1x1 0x60"),
    "PointsmanStoreAway": _both(f"pointsman_planner_store_available{_PLANNER}", "0x60", "1x28 0x1 1x60"),
    "PointsmanPlanTooLarge": _both(f"pointsman_planner_oversized_plans_total{_PLANNER}", "0x25 1x60", "1x60"),
    "PointsmanDigestMismatches": _both(f"pointsman_planner_digest_mismatches_total{_PLANNER}", "0+1x60", "0x25 1x60"),
    "PointsmanCallsRefused": _both(_REFUSED % "forbidden", "0+60x60", "0+1x60"),
    "PointsmanEnforcerDisconnected": _both(f"pointsman_enforcer_connected{_NODE}", "0x60", "1x20 0x5 1x60"),
    "PointsmanSyncsFail": _both(
        'pointsman_enforcer_sync_failures_total{node="n1", kind="sync"}', "0+1x60", "0x25 1x60"
    ),
    "PointsmanRulesTouched": _both(
        'pointsman_enforcer_drift_repairs_total{node="n1", outcome="repaired"}', "0+1x60", "0x25 1x60"
    ),
    "PointsmanVerificationMismatch": _both(
        f"pointsman_enforcer_verification_mismatches_total{_NODE}", "0x25 1x60", "1x60"
    ),
    "PointsmanConntrackDegraded": _both(f"pointsman_enforcer_conntrack_degraded{_NODE}", "1x60", "0x25 1x2 0x60"),
    "PointsmanPlanNotOnDisk": _both(f"pointsman_enforcer_journal_failures_total{_NODE}", "0x25 1x60", "0x60"),
    "PointsmanKubeProxyRuns": _both(f"pointsman_enforcer_kube_proxy_running{_NODE}", "1x60", "1x10 0x60"),
    "PointsmanTraceSpansLost": Case(
        {'pointsman_planner_trace_spans_total{outcome="dropped"}': "0+600x60"},
        {'pointsman_planner_trace_spans_total{outcome="exported"}': "0+600x60"},
    ),
}
