"""The compiler: TVM passes over the emitted definition, and the libraries that they make.

The functions of a library, their names and its ``_metadata`` are those that MLC-LLM's engine looks up.
"""
