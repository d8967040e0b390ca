"""What a decoder is made of, as data: its matrices and norms, and the families of models that have them.

Every family is read as one architecture, ``edge_llama``: LLaMA's decoder layer, plus what a family adds to it
(`families.Family.fixed`). Shapes, costs, units, surgery, rounding, healing and GGUF derive from the tables here.
Forward passes don't: these are `checkpoint.modeling_edge_llama` and ``templates/edge_llama_model.py.j2``.
"""
