"""The compiler: TVM passes that turn the emitted definition into a library for MLC-LLM's engine."""
