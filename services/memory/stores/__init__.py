"""The stores of memories: one package for each kind of store, behind one interface."""
