"""What the launcher and the janitor do with the Kubernetes API, and so what the chart's Role must
allow; no more."""

from __future__ import annotations

from collections.abc import Mapping

#: On the kinds of job.
JOB_VERBS = frozenset({"create", "get", "list", "watch", "delete"})
#: On everything else: (group, resource) to verbs.
NEEDED: Mapping[tuple[str, str], frozenset[str]] = {
    ("batch", "jobs"): JOB_VERBS,
    ("", "pods"): frozenset({"get", "list", "watch"}),
    ("", "pods/log"): frozenset({"get"}),
    ("", "events"): frozenset({"list"}),
    ("argoproj.io", "workflows"): frozenset({"get", "list", "watch"}),
}
