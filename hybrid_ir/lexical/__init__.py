"""Lexical: texts in; the passages that share words with a query, by BM25, out. It knows no index, encoder or service.

Other rooms import what `__init__.pyi` lists, and nothing else. Each name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
