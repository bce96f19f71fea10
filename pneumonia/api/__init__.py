"""The public Python API: what `import pneumonia` offers is defined in the modules of this folder.

The commands of `pneumonia.cli` call the same functions. Nothing here is imported before it is used.
"""
