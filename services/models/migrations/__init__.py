"""The history of the models service's schema."""
