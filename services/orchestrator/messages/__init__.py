"""Domain objects as protobuf messages and back: what the API sends and what worker hosts write into events."""
