# SPDX-License-Identifier: Apache-2.0
# One image for every process of Millrace, the engine included:
#   docker build --build-arg ENGINE=gpu --tag millrace:0.1.0 .
#
#   ENGINE       cpu or gpu: which build of vLLM, as for `make install`
#   TORCH_INDEX  an index with CPU builds of torch, where uv does not find one by itself

FROM python:3.11-slim-bookworm AS build
ARG ENGINE=cpu
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements requirements
RUN python -m venv /opt/millrace && /opt/millrace/bin/pip install --quiet --upgrade pip
# torch without CUDA first: under the same version the package index holds the CUDA build.
RUN if [ "$ENGINE" = cpu ]; then \
      torch="$(grep '^torch==' requirements/cpu.lock)"; \
      if [ -n "$TORCH_INDEX" ]; then \
        /opt/millrace/bin/pip install --no-deps --extra-index-url "$TORCH_INDEX" "$torch"; \
      else \
        pip install uv && uv pip install --python /opt/millrace/bin/python --no-deps --torch-backend cpu "$torch"; \
      fi; \
    fi
# The lock is complete, so nothing is resolved.
RUN /opt/millrace/bin/pip install --no-deps --requirement "requirements/$ENGINE.lock"
RUN pip install "$(grep '^hatchling==' requirements/dev.lock)"
COPY pyproject.toml README.md LICENSE ./
COPY contract contract
COPY logger logger
COPY judge judge
COPY trainer trainer
COPY gateway gateway
COPY millrace millrace
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/millrace/bin/pip install --no-deps /wheels/*.whl

FROM python:3.11-slim-bookworm
# g++: the engine compiles kernels for the machine that it finds itself on. bubblewrap, libseccomp2: the graders' sandbox.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap g++ libgomp1 libnuma1 libseccomp2 libtcmalloc-minimal4 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /tmp millrace
COPY --from=build /opt/millrace /opt/millrace
ENV PATH=/opt/millrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LITELLM_LOCAL_MODEL_COST_MAP=True
USER 10001
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["millrace"]
