"""Reading of documents and statements from outside, in a process whose time and memory are bounded."""
