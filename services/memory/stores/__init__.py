"""Where memories can lie: one package for each kind of store, behind one interface."""
