"""Opens sessions that are ready to serve: compiled, compared with the exported network, and warmed up."""

import itertools
import time

import numpy as np
import structlog

from mattebox_server.engine.artifact import Artifact
from mattebox_server.engine.config import ABILITIES, EngineConfig, ProviderUnavailable
from mattebox_server.engine.inference import run_session
from mattebox_server.engine.opening import ArtifactSession, open_session
from mattebox_server.engine.phases import phase
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.precisions import bf16_refusal, precisions_to_try
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.engine.session import Session
from mattebox_server.imaging.preprocess import content_size
from mattebox_server.spec import Letterbox, ModelSpec

log = structlog.stdlib.get_logger(__name__)

# The aspects of nearly all photos, the most frequent first: cameras and phones across and upright, squares, screens.
_ASPECTS = ((3, 2), (4, 3), (3, 4), (2, 3), (1, 1), (16, 9), (9, 16))
_WARM_UP_S = 5.0  # a first run takes some 100 ms longer, which no caller notices where every run takes seconds


def open_proven(artifact: Artifact, device: Device, config: EngineConfig) -> ArtifactSession:
    """Opens a session that gives the right answer to the check photo, and warms it up.

    Raises:
        ProviderUnavailable: the provider can't run the artifact, or its answer is wrong.
    """
    session = open_checked(artifact, device, config)
    with phase("warm up", artifact.spec.name, device.provider, config.observer) as facts:
        facts["runs"] = warm_up(session, session.max_batch)
    return session


def open_checked(artifact: Artifact, device: Device, config: EngineConfig) -> ArtifactSession:
    """Opens a session that gives the right answer to the check photo, in the first precision in which it does.

    Raises:
        ProviderUnavailable: the provider can't run the artifact, or its answer is wrong.
    """
    *first, last = plans(artifact, device, config)
    if config.precision == "auto" and "bf16" in device.native and (reason := bf16_refusal(artifact.spec)):
        log.info("precision left out", model=artifact.spec.name, precision="bf16", reason=reason)
    for plan in first:
        try:
            return _open_checked(plan)
        except ProviderUnavailable as error:
            log.warning("precision left out", model=artifact.spec.name, precision=plan.precision, reason=str(error))
    return _open_checked(last)


def plans(artifact: Artifact, device: Device, config: EngineConfig) -> list[Plan]:
    """One plan for each precision in which the artifact may run, fastest first.

    Raises:
        ProviderUnavailable: there is none.
    """
    precisions = precisions_to_try(config.precision, artifact.spec, device.provider, device.native)
    return [Plan(artifact, device, precision, config) for precision in precisions]


def _open_checked(plan: Plan) -> ArtifactSession:
    """Opens a session and runs the check photo. If a cached model gives a wrong answer, it is compiled anew once."""
    labels = plan.artifact.spec.name, plan.provider, plan.config.observer
    with phase("compile", *labels) as facts:
        session = open_session(plan)
        facts |= {"precision": plan.precision, "cache": session.cache}
    was_compiled_before = session.cache == "hit"
    try:
        with phase("check", *labels) as facts:
            facts.update(check_session(session))
    except ProviderUnavailable as error:
        session.close()  # the error's traceback holds the session, and the next one needs its memory
        session.forget_compiled()
        if not was_compiled_before:
            raise
        log.warning("the cached model fails on the check photo", model=plan.artifact.spec.name, reason=str(error))
        return _open_checked(plan)
    session.keep_compiled()
    return session


def warm_up(session: Session, max_batch: int) -> int:
    """Runs the most frequent shapes for some seconds; returns the number of runs.

    OpenVINO and the GPU providers compile or choose kernels for each new shape. The CPU provider doesn't, so that the
    run of the check photo is enough for it.
    """
    abilities = ABILITIES[session.provider]
    if not abilities.warms_up:
        return 0
    batches = sorted({1, max_batch}) if abilities.on_gpu else [1]
    sizes = dict.fromkeys(_input_size(session.spec, *aspect) for aspect in _ASPECTS)
    until_s, runs = time.monotonic() + _WARM_UP_S, 0
    for (height, width), batch in itertools.product(sizes, batches):
        if time.monotonic() > until_s:
            break
        run_session(session, [np.zeros((height, width, 3), np.uint8)] * batch, [frozenset[int]()] * batch)
        runs += 1
    return runs


def _input_size(spec: ModelSpec, across: int, down: int) -> tuple[int, int]:
    """Height and width of the network's input for a photo of an aspect."""
    if isinstance(spec.resize, Letterbox):
        return spec.resize.height_px, spec.resize.width_px
    width, height = content_size(across * 1000, down * 1000, spec.resize)
    return height, width
