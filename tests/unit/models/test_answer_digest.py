"""Which requests count as equal."""

from google.protobuf.duration_pb2 import Duration

from coxswain.models.v1 import inference_pb2 as pb
from services.models.servicers.messages.inference import reuse_from_proto


def request(model: str = "m", **labels: str) -> pb.CompleteRequest:
    completion = pb.Completion(model=model, labels=labels)
    return pb.CompleteRequest(completion=completion, max_cached_age=Duration(seconds=60))


def test_requests_that_differ_in_labels_alone_are_for_the_same_answer() -> None:
    labelled = request(crew="brief")
    digests = {reuse_from_proto(each).digest for each in (request(), labelled, request(crew="poem"))}
    assert len(digests) == 1
    assert dict(labelled.completion.labels) == {"crew": "brief"}
    assert reuse_from_proto(request("other")).digest not in digests
