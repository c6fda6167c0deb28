"""Servers of the Model Context Protocol, of both of its eras, over HTTP and as local commands."""
