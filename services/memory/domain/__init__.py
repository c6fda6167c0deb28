"""What memory is about, one module for each noun."""
