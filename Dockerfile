# docker build .                                             the service on the CPU, by OpenVINO
# docker build --target cuda .                               on a CUDA device, by torch
# docker build --build-arg TORCH_INDEX=URL .                 torch from PyTorch's index of CPU builds: 4 GB less
ARG PYTHON_IMAGE=python:3.11-slim

# What is to be installed, of both files that change for other reasons too: the layers below are rebuilt only if this is.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml constraints.txt ./
RUN grep -E '^torch(vision)?==' constraints.txt > torch.txt \
    && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
open("all.txt", "w").write("\n".join(project["dependencies"])); \
open("cpu.txt", "w").write("\n".join(project["optional-dependencies"]["cpu"]))'

FROM ${PYTHON_IMAGE} AS venv
RUN python -m venv /opt/pellucid
ENV PATH=/opt/pellucid/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The service alone, as files that lie over those of the environment.
FROM venv AS service
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN python -m pip install --no-deps --prefix /service .

# PyPI's torch for x86 is one for CUDA, with several GB of NVIDIA's libraries; one from an index of CPU builds has none.
FROM venv AS cpu-builder
ARG TORCH_INDEX=
COPY --from=requirements /requirements/torch.txt /requirements/
RUN python -m pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement /requirements/torch.txt
COPY --from=requirements /requirements /requirements
RUN python -m pip install --constraint /requirements/constraints.txt \
    --requirement /requirements/all.txt --requirement /requirements/cpu.txt
# An explanation converts the networks for OpenVINO. What OpenVINO compiles of them is for the processor that builds, and
# is left out; compiling takes seconds at each start. The service stays out of the environment, whose layer is kept so.
COPY --from=service /service /service
RUN PYTHONPATH="$(echo /service/lib/python3*/site-packages)" \
    && export PYTHONPATH PYTHONDONTWRITEBYTECODE=1 PELLUCID_CACHE_DIR=/cache \
    && python -m service explain "$PYTHONPATH/service/web/samples/cat.jpg" --out /tmp/explained \
    && rm -f /cache/*.blob \
    && chmod -R a=rX /cache

# An image of the service with nothing in it yet.
FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="Pellucid" \
      org.opencontainers.image.description="What a convolutional network sees in an image, and why, over HTTP." \
      org.opencontainers.image.documentation="docs/deployment.md" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pellucid
ENV PATH=/opt/pellucid/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PELLUCID_HOST=0.0.0.0 \
    PELLUCID_PORT=8000 \
    PELLUCID_LOG_FORMAT=json
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PELLUCID_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["pellucid"]
CMD ["serve"]

FROM base AS cpu
ENV PELLUCID_CACHE_DIR=/opt/pellucid/cache
COPY --from=cpu-builder /opt/pellucid /opt/pellucid
COPY --from=service /service /opt/pellucid
COPY --from=cpu-builder /cache /opt/pellucid/cache

FROM venv AS cuda-builder
COPY --from=requirements /requirements /requirements
RUN python -m pip install --constraint /requirements/constraints.txt --requirement /requirements/all.txt

# No CUDA device is an error here, not a slow service; and torch has nothing to convert.
FROM base AS cuda
ENV PELLUCID_DEVICE=cuda \
    PELLUCID_CACHE_DIR= \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-builder /opt/pellucid /opt/pellucid
COPY --from=service /service /opt/pellucid

# What is built where no target is named. (Older builders run all stages up to the target: so CUDA's come after it.)
FROM cpu
