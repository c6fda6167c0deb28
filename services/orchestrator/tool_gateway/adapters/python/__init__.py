"""Tools that the operator has installed: entry points of the group `coxswain.tools`, run in processes of their own."""
