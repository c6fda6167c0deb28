"""Worker hosts (`host`), the crew processes they fork (`crew`), the socket between them (`link`), their `queue`."""
