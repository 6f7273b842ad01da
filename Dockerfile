# Murmur's image, for CPUs (the default) and for NVIDIA GPUs:
#   docker build --target cpu -t murmur:0.1.0-cpu .
#   docker build --target cuda -t murmur:0.1.0-cuda .
# It is what KubeRay expects of one: bash, wget, and `ray` and `python` on the PATH.
#
# It holds an ffmpeg binary under GPL 3 or later (see NOTICE): who hands an image on must offer its source.

# Debian's Python is 3.11, as constraints.txt was made with.
FROM debian:12.11-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgomp1 python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/murmur/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# The package as a wheel, with the native kernels compiled.
FROM base AS wheel
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir setuptools==84.2.1
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY engine engine
COPY deployments deployments
COPY training training
COPY serve serve
# They are optional where a compiler is not at hand. Here it is.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python3 -m zipfile --list /wheels/*.whl | grep --count engine/kernels/_native | grep --quiet --line-regexp 2

# What it depends on, apart from it, so that this layer stays when only the source changes. torch goes
# first, from an index that has the build that is meant: under the same version PyPI has the one for CUDA 13,
# and PyTorch's own index for CPUs the one without CUDA.
FROM base AS dependencies-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/murmur \
    && pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" --constraint constraints.txt torch
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['demo'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM base AS dependencies-cuda
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/murmur \
    && pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" --constraint constraints.txt torch
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM base AS runtime
# The licences of what is inside: Murmur's and its Python packages', ffmpeg's, libsoxr's.
LABEL org.opencontainers.image.title="murmur" \
      org.opencontainers.image.description="Whisper speech recognition on Ray Serve" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later AND LGPL-2.1-or-later"
# A login shell, which KubeRay may be told to use, would set another PATH. The volume for weights is the
# user's before anything is mounted there.
# hadolint ignore=SC2016
RUN echo 'export PATH=/opt/murmur/bin:$PATH' > /etc/profile.d/murmur.sh \
    && groupadd --gid 1000 murmur \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash murmur \
    && install --directory --owner=murmur --group=murmur /weights
ENV HF_HOME=/weights
COPY LICENSE NOTICE /usr/share/doc/murmur/

FROM runtime AS cuda
# What NVIDIA's container toolkit reads: every GPU that is given, for computing.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Our kernels for GPUs: Triton compiles its launcher when they are first used.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies-cuda /opt/murmur /opt/murmur
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl && rm -r /tmp/wheels
USER 1000:1000
WORKDIR /home/murmur
RUN murmur doctor --offline
CMD ["murmur", "--help"]

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/murmur /opt/murmur
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl && rm -r /tmp/wheels
USER 1000:1000
WORKDIR /home/murmur
RUN murmur doctor --offline
CMD ["murmur", "--help"]
