"""The processes that `benchmarks.models_complete` compares: an upstream, a bare forwarder and our server."""
