"""What OCSF says of the classes that are used here: numbers, names, and where profiles belong.

From the definitions of OCSF 1.1.0, 1.8.0 and 1.9.0 (https://schema.ocsf.io, Apache-2.0); tests hold
each event to all that they say.
"""

from __future__ import annotations

from typing import NamedTuple

BASE_EVENT = 0
KERNEL_ACTIVITY = 1003
PROCESS_ACTIVITY = 1007
EVENT_LOG_ACTIVITY = 1008
DETECTION_FINDING = 2004
NETWORK_ACTIVITY = 4001
HTTP_ACTIVITY = 4002
DNS_ACTIVITY = 4003
CONFIG_CHANGE = 5019
APPLICATION_LIFECYCLE = 6002
API_ACTIVITY = 6003

OTHER = 99
INT64_MAX = 2**63 - 1


class EventClass(NamedTuple):
    """A class: its name, its category's number and name, and what its activities are called."""

    name: str
    category_uid: int
    category: str
    activities: dict[int, str]


CLASSES = {
    BASE_EVENT: EventClass("Base Event", 0, "Uncategorized", {}),
    KERNEL_ACTIVITY: EventClass("Kernel Activity", 1, "System Activity", {4: "Invoke"}),
    PROCESS_ACTIVITY: EventClass(
        "Process Activity", 1, "System Activity", {1: "Launch", 2: "Terminate"}
    ),
    EVENT_LOG_ACTIVITY: EventClass(
        "Event Log Activity", 1, "System Activity",
        {1: "Clear", 2: "Delete", 3: "Export", 5: "Rotate"},
    ),
    DETECTION_FINDING: EventClass("Detection Finding", 2, "Findings", {1: "Create"}),
    NETWORK_ACTIVITY: EventClass(
        "Network Activity", 4, "Network Activity",
        {2: "Close", 3: "Reset", 4: "Fail", 5: "Refuse"},
    ),
    HTTP_ACTIVITY: EventClass("HTTP Activity", 4, "Network Activity", {}),
    DNS_ACTIVITY: EventClass("DNS Activity", 4, "Network Activity", {1: "Query"}),
    CONFIG_CHANGE: EventClass("Device Config State Change", 5, "Discovery", {1: "Log"}),
    APPLICATION_LIFECYCLE: EventClass(
        "Application Lifecycle", 6, "Application Activity", {3: "Start", 4: "Stop"}
    ),
    API_ACTIVITY: EventClass(
        "API Activity", 6, "Application Activity",
        {1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
    ),
}  # fmt: skip

SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal"}
INFORMATIONAL, LOW, MEDIUM, HIGH, CRITICAL, FATAL = SEVERITIES

SUCCESS, FAILURE = 1, 2
STATUSES = {SUCCESS: "Success", FAILURE: "Failure"}
NEW = 1

ALLOWED, DENIED, OBSERVED = 1, 2, 3
ACTIONS = {ALLOWED: "Allowed", DENIED: "Denied", OBSERVED: "Observed"}

BLOCKED, LOGGED, UNAUTHORIZED, ERROR = 2, 17, 26, 27
DISPOSITIONS = {
    ALLOWED: "Allowed", BLOCKED: "Blocked", LOGGED: "Logged", UNAUTHORIZED: "Unauthorized",
    ERROR: "Error",
}  # fmt: skip

SYSTEM_CALL = 2
LINUX = 200
OUTBOUND = 2
REGULAR_FILE = 1
RULE = 1
SHA_256 = 3
HEXADECIMAL = 1

DEVICE_BY_PROFILE = frozenset(
    {
        BASE_EVENT,
        NETWORK_ACTIVITY,
        HTTP_ACTIVITY,
        DNS_ACTIVITY,
        APPLICATION_LIFECYCLE,
        API_ACTIVITY,
    }
)
"""Classes that have a device by the profile `host` alone."""

ACTOR_BY_PROFILE = frozenset(
    {
        BASE_EVENT,
        NETWORK_ACTIVITY,
        HTTP_ACTIVITY,
        DNS_ACTIVITY,
        APPLICATION_LIFECYCLE,
        DETECTION_FINDING,
    }
)

TRACED = frozenset({HTTP_ACTIVITY, API_ACTIVITY})
"""Classes with the profile `trace`."""

AI_OPERATION_1_9 = frozenset(CLASSES) - {BASE_EVENT, DETECTION_FINDING, CONFIG_CHANGE}
"""Classes with the profile `ai_operation` from 1.9 on."""

_DECISION = frozenset({"action_id", "action", "disposition_id", "disposition", "policy"})

LACKING_1_1 = {
    BASE_EVENT: _DECISION | {"device", "actor", "log_name", "log_provider"},
    KERNEL_ACTIVITY: frozenset({"policy"}),
    PROCESS_ACTIVITY: frozenset({"policy"}),
    DETECTION_FINDING: frozenset({"policy", "is_alert"}),
    NETWORK_ACTIVITY: frozenset({"policy", "http_request"}),
    DNS_ACTIVITY: frozenset({"policy"}),
    CONFIG_CHANGE: _DECISION,
    APPLICATION_LIFECYCLE: _DECISION,
    API_ACTIVITY: _DECISION | {"device", "trace"},
}
"""Which of the attributes that are used here a class has not in 1.1.0."""

INSTEAD_1_1 = {EVENT_LOG_ACTIVITY: BASE_EVENT, HTTP_ACTIVITY: NETWORK_ACTIVITY}
"""Classes that 1.1.0 has not, or not without a request and its answer."""
