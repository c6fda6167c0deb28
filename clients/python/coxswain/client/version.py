"""The version of the client: one number for the services and the client of a checkout."""

VERSION = "0.1.0"
