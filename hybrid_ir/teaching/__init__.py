"""Teaching: a store and a teacher in, the same store with what the teacher says of its texts out.

Other rooms import what `__init__.pyi` lists, and nothing else. Each name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
