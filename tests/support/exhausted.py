"""What every refusal for a limit tells: how long to wait, or that it does not help, and which limit it is."""

import grpc
from google.rpc import error_details_pb2, status_pb2

OF_LIMITS = {"QUOTA_EXCEEDED", "BUDGET_EXCEEDED", "OVERLOADED", "ARTIFACT_LIMIT_REACHED", "EXECUTION_LIMIT_REACHED"}
"""Reasons for which the limit is one of the installation's, and named by a QuotaFailure."""


def fault_of_exhausted(status: status_pb2.Status) -> str:
    """Return what a status of RESOURCE_EXHAUSTED lacks, in words; "" for nothing, and for other codes."""
    if status.code != grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]:
        return ""
    info, retry, quota = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
    found = {type(each) for detail in status.details for each in (info, retry, quota) if detail.Unpack(each)}
    if type(info) not in found:
        return "RESOURCE_EXHAUSTED without ErrorInfo"
    if type(retry) not in found and "waiting" not in status.message:
        return f"RESOURCE_EXHAUSTED {info.reason} says neither when to try again nor that waiting does not help"
    named = [violation.subject for violation in quota.violations if violation.description]
    if info.reason in OF_LIMITS and not (len(named) == 1 and named[0].startswith("limit:")):
        return f"RESOURCE_EXHAUSTED {info.reason} without a QuotaFailure that names the limit: {quota}"
    return ""
