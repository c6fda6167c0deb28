"""The wires of LLM providers: each says how one provider asks, answers, streams and fails."""
