"""What is counted of every call."""

from prometheus_client import Counter, Histogram

REFUSED = Counter(
    "coxswain_rpc_refused_total",
    "Calls and streams refused because too many were open, by what was counted.",
    ("counted",),
)
CALLS = Counter("coxswain_rpc_total", "Calls served, by method and status code.", ("method", "code"))
SECONDS = Histogram(
    "coxswain_rpc_seconds",
    "Seconds until a call was answered (until its end for streams), by method.",
    ("method",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
