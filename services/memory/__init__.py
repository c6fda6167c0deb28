"""Long-term memory on the backend that a group has chosen, and the Databricks indexes it may use."""
