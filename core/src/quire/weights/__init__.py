"""The weights' way from disk to device: model sources, config files, checkpoints, loading.

Import the module you need (`checkpoint`, `loader`, `config_files`, `sources`); this package imports nothing.
"""
