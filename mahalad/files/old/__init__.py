"""Model files of older formats: header and arrays as the present format has them.

One module a format, each with a pure `upgrade(header, arrays)` to the next one; `upgrade` goes
through them all. Only this folder knows of older formats.
"""
