"""Vectors: what the context leaves in the residual stream, taken out and put in elsewhere."""

from icl_locate.vectors.peak import Peak, locate_peak

__all__ = ["Peak", "locate_peak"]
