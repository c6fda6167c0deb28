"""Between memory's domain and its messages, one module for each noun."""
