from . import isal_zlib as isal_zlib
