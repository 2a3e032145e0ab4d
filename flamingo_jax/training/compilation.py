"""Where compiled programs are kept, so that a run that goes on need not compile them again."""

from __future__ import annotations

import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep(folder: str, workdir: pathlib.Path) -> None:
    """Keeps what is compiled from here on in ``folder`` (``RunConfig.compilation_cache``), and takes it from there.

    A folder that cannot be read or written costs a warning, and time. "auto" is the workdir's, but none on CPUs: their
    programs are made for one machine's instructions and compile in seconds, and many machines refuse even their own
    with a page of errors (jax issue 38445). Nor is it where ``JAX_COMPILATION_CACHE_DIR`` names another one.
    """
    if folder == "auto":
        elsewhere = jax.config.jax_compilation_cache_dir
        folder = "" if elsewhere or jax.default_backend() == "cpu" else "{workdir}/compilation_cache"
    if not folder:
        return
    jax.config.update("jax_compilation_cache_dir", folder.replace("{workdir}", str(workdir)))
    # All of them: a stage has a dozen, and on a pod none is so small that a file would take longer to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # whatever was decided when something was compiled before
