"""The compiler: TVM passes that turn the emitted definition into a library.

A library has the functions and the ``_metadata`` that MLC-LLM's engine looks up.
"""
