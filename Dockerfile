# The service on the CPU or, where the host gives it one, a CUDA device. The base image is an argument.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

LABEL org.opencontainers.image.title="Pellucid" \
      org.opencontainers.image.description="What a convolutional network sees in an image, and why, over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /app
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PELLUCID_HOST=0.0.0.0 \
    PELLUCID_PORT=8000 \
    PELLUCID_LOG_FORMAT=json \
    PELLUCID_CACHE_DIR=

# The dependencies first, by the lock: this layer is rebuilt only when they change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir service models && touch service/__init__.py models/__init__.py \
    && python -m pip install --no-cache-dir --constraint constraints.txt '.[cpu]' \
    && python -m pip uninstall --yes pellucid \
    && rm -r service models build *.egg-info

COPY models models
COPY service service
RUN python -m pip install --no-cache-dir --no-deps . \
    && rm -r build *.egg-info \
    && useradd --system --uid 10001 pellucid

USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
