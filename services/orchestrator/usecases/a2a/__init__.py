"""Use cases of A2A: messages of other systems become executions, and executions are shown to them as tasks."""
