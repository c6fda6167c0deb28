"""Access to rows, behind Protocols."""
