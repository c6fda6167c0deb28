"""What the Databricks tools share."""
