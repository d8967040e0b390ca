"""TVM passes that turn the definition's module into a library with the functions of MLC's engine ABI."""
