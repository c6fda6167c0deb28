"""Operations of APIs that describe themselves by OpenAPI 3.0 or 3.1."""
