"""The weights' way from disk to device. Light: the parts are imported where they are used."""
