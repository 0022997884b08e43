# hadolint global ignore=DL3059
# (the layers of the build stage are thrown away; one instruction a step reads better)
#
# The agent, the quote helper, the Observer and `lucid` in one image; which, the arguments say:
#
#     IMAGE                                  the agent (lucid-agent run)
#     IMAGE lucid-agent quote-helper …       the quote helper
#     IMAGE lucid-observer run …             the Observer
#
# `make image` builds it: it puts the wheels into build/image and names the base by its digest.
# Nothing is downloaded here. BASE is any image with python3 (with venv), binutils and dpkg; nothing
# of it but the interpreter, its library and the shared libraries gets into the result.
ARG BASE
FROM ${BASE} AS build
ARG PYTHONHASHSEED=0
COPY requirements/runtime.txt build/image/agent.txt /requirements/
COPY build/image/wheels /wheels
RUN ["python3", "-m", "venv", "/build"]
RUN ["python3", "-m", "venv", "--without-pip", "/opt/lucid"]
RUN ["/build/bin/pip", "--python", "/opt/lucid/bin/python", "install", "--no-index", \
     "--find-links=/wheels", "--no-compile", "--no-cache-dir", "--require-hashes", \
     "-r", "/requirements/runtime.txt", "-r", "/requirements/agent.txt"]
COPY deploy/image/rootfs.py /rootfs.py
RUN ["python3", "/rootfs.py", "/opt/lucid", "/rootfs"]

FROM scratch
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="lucid-agent" \
      org.opencontainers.image.description="Attestation and policy enforcement agent for AI models in confidential VMs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs /
ENV PATH=/opt/lucid/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["lucid-agent", "healthcheck"]
CMD ["lucid-agent", "run"]
