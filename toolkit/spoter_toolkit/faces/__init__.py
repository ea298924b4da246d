"""The faces of a bundle besides Python: other languages and servers that answer clips, for parity.

One file a face: ``faces/NAME.py`` has ``open_face(bundle, precision)``, which returns a `Face`, and ``parity
--face NAME`` finds it by the file's name.
"""
