# docker build .                                             the service on the CPU, by OpenVINO
# docker build --target cuda .                               on a CUDA device, by torch
# docker build --build-arg TORCH_INDEX=URL .                 its networks compiled by torch from an index of CPU builds
ARG PYTHON_IMAGE=python:3.11-slim

# What is to be installed, of both files that change for other reasons too: the layers below are rebuilt only if this is.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml constraints.txt ./
RUN grep -E '^torch(vision)?==' constraints.txt > torch.txt \
    && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
wanted = {"all": project["dependencies"] + extras["open"] + extras["serve"] + extras["grpc"], "cpu": extras["cpu"], "compile": extras["compile"]}; \
[open(name + ".txt", "w").write("\n".join(x for x in wanted[name] if "pellucid" not in x)) for name in wanted]'

FROM ${PYTHON_IMAGE} AS venv
RUN python -m venv /opt/pellucid
ENV PATH=/opt/pellucid/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The service alone, as files that lie over those of the environment.
FROM venv AS service
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY pellucid pellucid
COPY models models
COPY service service
RUN python -m pip install --no-deps --prefix /service .

# PyPI's torch for x86 is one for CUDA, with several GB of NVIDIA's libraries; one from an index of CPU builds has none.
FROM venv AS torch
ARG TORCH_INDEX=
COPY --from=requirements /requirements/torch.txt /requirements/
RUN python -m pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement /requirements/torch.txt
COPY --from=requirements /requirements /requirements
RUN python -m pip install --constraint /requirements/constraints.txt \
    --requirement /requirements/all.txt --requirement /requirements/cpu.txt --requirement /requirements/compile.txt

# Only compiling a network needs torch. The service stays out of the environment, whose layer is kept so. What OpenVINO
# makes of a network at a start is of one processor: none of it is in the image.
COPY --from=service /service /service
RUN PYTHONPATH="$(echo /service/lib/python3*/site-packages)" \
    && export PYTHONPATH PYTHONDONTWRITEBYTECODE=1 \
    && python -m pellucid.compiler lite0 --quiet --out /networks/lite0.pellucid \
    && python -m pellucid.compiler lite0-plain --quiet --out /networks/lite0-plain.pellucid

# Without pip, which nothing needs any more (22 MB), and OpenVINO for GPUs and NPUs, which this image never asks (61 MB).
FROM venv AS cpu-builder
COPY --from=requirements /requirements /requirements
RUN python -m pip install --constraint /requirements/constraints.txt \
    --requirement /requirements/all.txt --requirement /requirements/cpu.txt \
    && python -m pip uninstall --yes pip setuptools \
    && rm /opt/pellucid/lib/python3*/site-packages/openvino/libs/libopenvino_intel_[gn]pu_plugin.so \
    /opt/pellucid/lib/python3*/site-packages/openvino/libs/cache.json

# An image of the service with nothing in it yet.
FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="Pellucid" \
      org.opencontainers.image.description="What a convolutional network sees in an image, and why, over HTTP." \
      org.opencontainers.image.documentation="docs/how-to/deployment.md" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pellucid
ENV PATH=/opt/pellucid/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PELLUCID_HOST=0.0.0.0 \
    PELLUCID_PORT=8000 \
    PELLUCID_MODEL=/opt/pellucid/networks/lite0.pellucid \
    PELLUCID_CACHE_DIR= \
    PELLUCID_LOG_FORMAT=json
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PELLUCID_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["pellucid"]
CMD ["serve"]

FROM base AS cpu
COPY --from=cpu-builder /opt/pellucid /opt/pellucid
COPY --from=torch /networks /opt/pellucid/networks
COPY --from=service /service /opt/pellucid

# No CUDA device is an error here, not a slow service. Torch compiles further networks by name.
FROM base AS cuda
ENV PELLUCID_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=torch /opt/pellucid /opt/pellucid
COPY --from=torch /networks /opt/pellucid/networks
COPY --from=service /service /opt/pellucid

# What is built where no target is named. (Older builders run all stages up to the target, which cuda adds little to.)
FROM cpu
