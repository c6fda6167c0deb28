"""Long-term memory on whatever backend a group has, and the Databricks indexes it may use."""
