"""Worker hosts (`host`), the crew processes they fork (`crew`), and the socket between them (`link`)."""
